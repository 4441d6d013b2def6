"""Whether the evaluation sets whose files a bundle carries are those that the recipe pins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_recipes.evaluation_sets import CARRIED_SETS, EvaluationSetFile
from provenance.canonical import read_json
from provenance.digests import sha256_file
from release.components import carried_path, set_components
from release.sources import evaluation_sets
from release.verify import CheckResult

_NAME, _WHERE = "evaluation sets", f"dataset/{CARRIED_SETS}"


def check_evaluation_sets(bundle: Path) -> CheckResult:
    """Files have the digests of the recipe, and `sources.lock`, `corpus.json` and `components.json` agree with it."""
    dataset = bundle / "dataset"
    stated = (read_json(dataset / "manifest.json")["corpus"]["recipe"].get("decontamination") or {}).get("sets", [])
    sets = sorted((EvaluationSetFile.model_validate(one) for one in stated), key=lambda source: source.name)
    components = read_json(bundle / "model" / "openness" / "components.json")["components"]
    problem = _files(dataset, sets) or _records(dataset, sets, components)
    detail = "the files that the recipe pins; `reproduce --full` takes them from here"
    return CheckResult("records", _NAME, "FAIL" if problem else "PASS", problem or detail, _WHERE)


def _files(dataset: Path, sets: Sequence[EvaluationSetFile]) -> str:
    """The first thing that is wrong with the files; empty where nothing is."""
    pinned = {source.carried_name: source for source in sets if source.shipping == "file"}
    here = {path.name: path for path in (dataset / CARRIED_SETS).iterdir()}
    if odd := sorted(pinned.keys() ^ here.keys()):
        return f"{odd[0]} is {'not here' if odd[0] in pinned else 'no set that the recipe ships'}"
    for name, path in sorted(here.items()):
        if (found := sha256_file(path)) != pinned[name].sha256:
            return f"the set {pinned[name].name} has the sha256 {found[:12]}, the recipe pins {name[:12]}"
    return ""


def _records(dataset: Path, sets: Sequence[EvaluationSetFile], components: list[dict[str, Any]]) -> str:
    """The first record that says other things than the recipe; empty where none does."""
    lock = evaluation_sets(dataset)
    sizes = [(dataset.parent / carried_path(entry), entry["size_bytes"]) for entry in lock]
    if any(path.is_file() and path.stat().st_size != size_bytes for path, size_bytes in sizes):
        return "sources.lock states another size of a file"
    if len(lock) != len(sets) or lock != [
        source.lock_entry(entry["size_bytes"]) for source, entry in zip(sets, lock, strict=True)
    ]:
        return "sources.lock says other things of the sets than the recipe"
    pinned = {source.name: source.sha256 for source in sets}
    compared = read_json(dataset / "corpus.json")["decontamination"]["sets"]
    if any(pinned.get(one["name"], "") != one["file_sha256"] for one in compared):
        return "corpus.json names other files than the recipe"
    if [part for part in components if part["paths"][0].startswith(_WHERE)] != set_components(lock):
        return "components.json and sources.lock do not agree on the sets"
    return ""
