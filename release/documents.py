"""All generated documents of a bundle, as bytes by path: made when it is built, made again when it is verified."""

import json

from data_recipes.attribution import attribution_text, read_licences
from provenance.canonical import Json
from release.cards import data_card, model_card
from release.components import licence_file_text, notice_text
from release.croissant import croissant
from release.described import descriptions, hidden_sources, samples
from release.facts import BundleFacts
from release.page import release_page
from release.rules import evaluate_rules


def dataset_documents(facts: BundleFacts) -> dict[str, bytes]:
    """Data card, credits and Croissant record: made from the corpus and the declared components."""
    title = f"{facts.components['name']} {facts.components['version']}"
    forgotten = {document.document_id for document in facts.forgotten}
    attribution = attribution_text(title, read_licences(facts.dataset / "documents", forgotten), facts.lock)
    hidden = hidden_sources(facts)
    return {
        "dataset/ATTRIBUTION.txt": attribution.encode("utf-8"),
        "dataset/README.md": data_card(facts).encode("utf-8"),
        "dataset/croissant.json": json_bytes(croissant(facts)),
        **{path: json_bytes(value) for path, value in descriptions(hidden).items()},
        **samples(hidden),
    }


def terms_documents(facts: BundleFacts) -> dict[str, bytes]:
    """LICENSE and NOTICE."""
    return {
        "model/LICENSE": licence_file_text(facts).encode("utf-8"),
        "model/NOTICE": notice_text(facts).encode("utf-8"),
    }


def model_documents(facts: BundleFacts) -> dict[str, bytes]:
    """Verdict, model card and release page; the bundle must hold everything else but the root manifest."""
    verdict = evaluate_rules(facts.bundle, facts).as_json()
    return {
        "model/openness/verdict.json": json_bytes(verdict),
        "model/README.md": model_card(facts, verdict).encode("utf-8"),
        "model/index.html": release_page(facts, verdict).encode("utf-8"),
    }


def json_bytes(value: Json) -> bytes:
    """JSON in the form in which the project writes files for people; floats do not occur."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8") + b"\n"
