"""The Croissant 1.1 record of the dataset (`croissant.json`): files, record sets and responsible-AI fields."""

from typing import Any

from data_recipes.chat_settings import DROPPED_CHATS
from provenance.canonical import Json
from release.chat_counts import chat_findings
from release.components import licence_of
from release.facts import BundleFacts
from release.layout import TEXT_FOLDERS
from release.licence_terms import licence_ids
from release.sources import class_of, location_of, pin_of

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

_CONTEXT: dict[str, Json] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_TEXT_COLUMNS = ("document_id", "source", "path", "licence", "text")
_CONVERSATION_COLUMNS = ("conversation_id", "document_id", "source", "licence")
_CHAT_COLUMNS = ("chat_id", "source", "licence", "row_key")
_DOCUMENT_COLUMNS = {
    "document_id": "sc:Text",
    "source": "sc:Text",
    "path": "sc:Text",
    "split": "sc:Text",
    "text_sha256": "sc:Text",
    "num_tokens": "sc:Integer",
    "licence_spdx": "sc:Text",
    "decision": "sc:Text",
    "rule": "sc:Text",
}
_DROPPED_CHAT_COLUMNS = ("chat_id", "source", "split", "rule")
_FOLDERS = tuple(f"{folder}/" for folder in (*TEXT_FOLDERS, "documents", DROPPED_CHATS))
_LISTINGS = ("corpus.json", "sources.lock", "tombstones.json")
_MEDIA_TYPES = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".bin": "application/octet-stream",
}


def croissant(facts: BundleFacts) -> dict[str, Json]:
    """Return the Croissant record of `dataset/`.

    The date is that of the licence evidence, the latest date as of which the data was pinned: nothing here depends
    on when the record was written.
    """
    components = facts.components
    files = _files(facts)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{components['name']}-{components['version']}-dataset",
        "description": f"Training data of {components['name']} {components['version']}. {components['description']}",
        "version": components["version"],
        "datePublished": facts.data_date,
        "license": [f"https://spdx.org/licenses/{spdx}.html" for spdx in _content_licences(facts)],
        "inLanguage": list(components["languages"]),
        "url": _url(components),
        "creator": {"@type": "sc:Organization", "name": components["provider"]["name"]},
        "citeAs": f"{components['name']} {components['version']}, {facts.dataset_manifest['corpus']['content_digest']}",
        "isLiveDataset": False,
        "isBasedOn": [_based_on(name, entry) for name, entry in sorted(facts.lock.items())],
        "distribution": files,
        "recordSet": _record_sets(facts, {entry["contentUrl"] for entry in files}),
        "rai:dataCollection": components["data"]["selection"],
        "rai:dataCollectionRawData": ". ".join(_raw_data(name, entry) for name, entry in sorted(facts.lock.items())),
        "rai:dataCollectionTimeFrame": facts.data_date,
        "rai:dataAnnotationProtocol": components["data"]["labelling"],
        "rai:dataPreprocessingProtocol": _steps(facts),
        "rai:dataLimitations": list(components["limitations"]),
        "rai:dataUseCases": components["intended_use"],
        "rai:dataReleaseMaintenancePlan": _maintenance(facts),
    }


def _url(components: dict[str, Any]) -> str:
    places = [channel["location"] for channel in components["distribution"]]
    return str(places[0]) if places else str(components["provider"]["contact"])


def _content_licences(facts: BundleFacts) -> list[str]:
    return sorted({spdx for expression in facts.kept_licences for spdx in licence_ids(expression)})


def _based_on(name: str, entry: dict[str, Any]) -> dict[str, Json]:
    return {
        "@type": "sc:CreativeWork",
        "name": name,
        "description": f"obtained from: {location_of(entry)}",
        "identifier": f"{'git' if entry.get('revision') else 'sha256'}:{pin_of(entry)}",
    }


def _raw_data(name: str, entry: dict[str, Any]) -> str:
    return f"{name}: {class_of(entry)}; {location_of(entry) or 'no place recorded'}"


def _maintenance(facts: BundleFacts) -> str:
    """Terms of the data information, and what was taken down."""
    terms = f"Data information is under {licence_of(facts.components, 'data_information')}."
    if not facts.forgotten:
        return terms
    return f"{terms} {len(facts.forgotten)} documents were taken down: tombstones.json. Their rows keep their places."


def _files(facts: BundleFacts) -> list[dict[str, Any]]:
    """FileObjects of the tables and listings, with their digests from the corpus manifest or their own bytes."""
    found = []
    for entry, _ in facts.listed("dataset"):
        path = entry.path
        suffix = "." + path.rsplit(".", 1)[-1]
        if not path.startswith(_FOLDERS) and path not in _LISTINGS:
            continue
        found.append(
            {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "contentUrl": path,
                "contentSize": f"{entry.size_bytes} B",
                "encodingFormat": _MEDIA_TYPES.get(suffix, "application/json"),
                "sha256": entry.sha256,
            }
        )
    return found


def _record_sets(facts: BundleFacts, paths: set[str]) -> list[dict[str, Json]]:
    sets = []
    for path in sorted(paths):
        name = path.removesuffix(".parquet")
        if path.startswith("text/"):
            columns = dict.fromkeys(_TEXT_COLUMNS, "sc:Text")
            sets.append(_record_set(name, path, columns, "Kept documents with their text."))
        elif path.startswith("conversations/"):
            columns = dict.fromkeys(_CONVERSATION_COLUMNS, "sc:Text")
            sets.append(_record_set(name, path, columns, "Conversations; `messages` is a list of roles and contents."))
        elif path.startswith(("chats/", "preferences/")):
            columns = dict.fromkeys(_CHAT_COLUMNS, "sc:Text")
            told = "Conversations and preference pairs from files; turns are lists of roles and contents."
            sets.append(_record_set(name, path, columns, told))
        elif path.startswith(f"{DROPPED_CHATS}/"):
            columns = dict.fromkeys(_DROPPED_CHAT_COLUMNS, "sc:Text")
            told = "Conversations and pairs that rules on evaluation sets and personal data dropped, without text."
            sets.append(_record_set(name, path, columns, told))
        elif path.startswith("documents/") and path.endswith(".parquet"):
            sets.append(
                _record_set(name, path, _DOCUMENT_COLUMNS, "Every document, kept or dropped, with the decision.")
            )
    return sets


def _record_set(name: str, path: str, columns: dict[str, str], description: str) -> dict[str, Json]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": data_type,
                "source": {"fileObject": {"@id": path}, "extract": {"column": column}},
            }
            for column, data_type in columns.items()
        ],
    }


def _steps(facts: BundleFacts) -> list[Json]:
    steps = [f"{step['name']}: {step['rows_in']} in, {step['rows_out']} out" for step in facts.corpus["steps"]]
    return [*steps, *chat_findings(facts.corpus)]
