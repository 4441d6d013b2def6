"""What a release declares: its components with licences, the licence texts beside them, LICENSE and NOTICE."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import data_recipes
from data_recipes.evaluation_sets import CARRIED_SETS
from provenance.canonical import Json, read_json, write_json
from release.facts import BundleFacts
from release.licence_terms import licence_ids
from release.settings import ReleaseConfig
from release.sources import evaluation_sets, taken_tokenizer, tokenizer_licence

COMPONENTS_FORMAT = "openwright-components/1"
TOKENIZER = "tokenizer"
"""The component that a tokenizer is which was made elsewhere."""


def component_table(
    config: ReleaseConfig, tokenizer: str, sets: Iterable[dict[str, Any]], *, dev: bool
) -> dict[str, Json]:
    """Return `components.json`: the declared facts of a release, from which every document is generated.

    Args:
        tokenizer: licence of a tokenizer that was made elsewhere; empty where it was trained on the corpus.
        sets: what `sources.lock` says of evaluation sets; those whose file is carried are components.
        dev: whether a dirty tree makes this bundle.
    """
    licences = config.licences
    return {
        "format": COMPONENTS_FORMAT,
        "name": config.name,
        "version": config.version,
        "dev": dev,
        "description": config.description,
        "provider": config.provider.model_dump(),
        "scope": "system",
        "stages": list(config.stages),
        "components": [
            _component("code", licences.code, ["model/code"]),
            _component("weights", licences.weights, ["model/model.safetensors", "model/checkpoints"]),
            _component("data_information", licences.data_information, _DATA_INFORMATION),
            *([_component(TOKENIZER, tokenizer, ["dataset/taken-tokenizer"])] if tokenizer else []),
            *set_components(sets),
        ],
        "languages": list(config.languages),
        "intended_use": config.intended_use,
        "limitations": list(config.limitations),
        "data": config.data.model_dump(),
        "hyperparameter_search": config.hyperparameter_search.model_dump(),
        "acceptable_use": config.acceptable_use,
        "shipping": dict(config.shipping),
        "distribution": [channel.model_dump() for channel in config.distribution],
        "upstreams": [],
    }


_DATA_INFORMATION = [
    "dataset/README.md",
    "dataset/corpus.json",
    "dataset/croissant.json",
    "dataset/documents",
    "dataset/sources.lock",
    "model/training",
]


def set_components(sets: Iterable[dict[str, Any]]) -> list[dict[str, Json]]:
    """Return evaluation sets whose files a bundle carries, as components of it."""
    return [
        _component(f"evaluation set {entry['name']}", str(entry["licence"]["spdx"]), [carried_path(entry)])
        for entry in sets
        if entry["shipping"] == "file"
    ]


def carried_path(entry: dict[str, Any]) -> str:
    """Where a bundle carries the file of an evaluation set."""
    return f"dataset/{CARRIED_SETS}/{entry['sha256']}.jsonl"


def _component(name: str, licence: str, paths: list[str]) -> dict[str, Json]:
    return {"name": name, "licence": licence, "paths": paths}


def licence_text(spdx: str) -> str | None:
    """Text of a licence by its SPDX identifier, or None where the project holds none."""
    assert data_recipes.__file__ is not None
    folder = Path(data_recipes.__file__).parent / "licence_texts"
    # The text of a GNU licence is the same for its -only and -or-later identifiers.
    for name in (spdx, spdx.removesuffix("-only").removesuffix("-or-later")):
        if (folder / f"{name}.txt").is_file():
            return (folder / f"{name}.txt").read_text(encoding="utf-8")
    return None


def needed_licence_ids(facts: BundleFacts) -> list[str]:
    """Identifiers of the licences of all components and of every kept document, sorted."""
    expressions = [component["licence"] for component in facts.components["components"]]
    return sorted({spdx for text in [*expressions, *facts.kept_licences] for spdx in licence_ids(text)})


def write_licence_texts(facts: BundleFacts) -> None:
    """Write `openness/LICENSES/<id>.txt` for every needed licence whose text the project holds.

    A missing text is not an error here: rule OSAID-T4 names it.
    """
    folder = facts.model / "openness" / "LICENSES"
    folder.mkdir(parents=True, exist_ok=True)
    for spdx in needed_licence_ids(facts):
        text = licence_text(spdx)
        if text is not None:
            (folder / f"{spdx}.txt").write_text(text, encoding="utf-8")


def licence_of(components: dict[str, Json], name: str) -> str:
    """Licence expression of a component."""
    return str(next(c["licence"] for c in components["components"] if c["name"] == name))


def assertion(components: dict[str, Json]) -> str:
    """The sentence that OSI asks for beside the parameters: that they are freely available to all."""
    weights = licence_of(components, "weights")
    return (
        f"The model parameters of {components['name']} {components['version']} (all files of model/*.safetensors and "
        f"checkpoints/) are freely available to all, for any purpose, under the terms of {weights}."
    )


def notice_text(facts: BundleFacts) -> str:
    """Return NOTICE: the assertion about the parameters and, per source, licences and copyright of what was kept."""
    components = facts.components
    lines = [
        f"{components['name']} {components['version']}",
        f"Provider: {components['provider']['name']}, {components['provider']['contact']}",
        "",
        assertion(components),
        f"Code: {licence_of(components, 'code')}. Data information: {licence_of(components, 'data_information')}.",
        *_tokenizer_notice(facts),
        *_set_notices(facts),
        "Documents of the training data keep their own licences, named below with the copyright lines found in them.",
        "The texts of all licences lie in openness/LICENSES/.",
    ]
    for source in facts.sources:
        if not source.num_kept:
            continue
        lines += ["", f"== {source.name} ({_documents(source.num_kept)})"]
        lines += [f"Licence: {licence} ({_documents(count)})" for licence, count in sorted(source.licences.items())]
        lines += source.copyright or ["No copyright line was found in the kept documents."]
    return "\n".join(lines) + "\n"


def _tokenizer_notice(facts: BundleFacts) -> list[str]:
    taken = taken_tokenizer(facts.dataset)
    if taken is None:
        return []
    place = taken["obtain"] or "a place that the recipe does not state"
    return [f"The tokenizer was made elsewhere and comes from {place}: {tokenizer_licence(taken)}."]


def _set_notices(facts: BundleFacts) -> list[str]:
    carried = [entry for entry in evaluation_sets(facts.dataset) if entry["shipping"] == "file"]
    return [
        f"{carried_path(entry)} is the evaluation set {entry['name']}, no training data; it comes from "
        f"{entry['obtain'] or 'a place that the recipe does not state'}: {entry['licence']['spdx']}."
        for entry in carried
    ]


def _documents(count: int) -> str:
    return "1 document" if count == 1 else f"{count} documents"


def licence_file_text(facts: BundleFacts) -> str:
    """Return LICENSE: the licence text of the weights, or the expression where it is no single licence."""
    expression = licence_of(facts.components, "weights")
    text = licence_text(expression)
    if text is not None:
        return text
    return f"SPDX-License-Identifier: {expression}\nThe texts of all licences lie in openness/LICENSES/.\n"


def read_components(path: Path) -> dict[str, Json]:
    """Read `components.json`."""
    return dict(read_json(path))


def write_components(path: Path, table: dict[str, Json]) -> None:
    """Write `components.json`."""
    write_json(path, table)
