"""Whether the tokenizer that a bundle carries as it was found elsewhere is the one that the recipe pins."""

from pathlib import Path

from data_recipes.settings import TAKEN_TOKENIZER, TakenTokenizer
from provenance.canonical import read_json
from provenance.digests import sha256_file
from release.sources import taken_tokenizer
from release.verify import CheckResult

_NAME, _WHERE = "taken tokenizer", f"dataset/{TAKEN_TOKENIZER}"


def check_taken_tokenizer(bundle: Path) -> CheckResult:
    """The file has the digest of the recipe, and `sources.lock` says what the recipe says of it."""
    problem = _problem(bundle / "dataset")
    detail = "the file that the recipe pins; `reproduce --full` takes it from here"
    return CheckResult("records", _NAME, "FAIL" if problem else "PASS", problem or detail, _WHERE)


def _problem(dataset: Path) -> str:
    """The first thing that is wrong; empty where nothing is."""
    stated = read_json(dataset / "manifest.json")["corpus"]["recipe"].get("tokenizer", {}).get("file")
    if stated is None:
        return "the recipe takes no tokenizer from a file"
    pinned, path = TakenTokenizer.model_validate(stated), dataset / TAKEN_TOKENIZER
    if (found := sha256_file(path)) != pinned.sha256:
        return f"it has the sha256 {found[:12]}, the recipe pins {pinned.sha256[:12]}"
    if taken_tokenizer(dataset) != pinned.lock_entry(path.stat().st_size):
        return "sources.lock says other things of it than the recipe"
    return ""
