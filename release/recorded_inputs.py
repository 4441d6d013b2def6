"""Whether what a replay reads is what the recorded run read: recipe, tokens and source tree, item by item."""

from pathlib import Path
from typing import Any

from data_recipes.order_file import ORDER_FILE
from provenance.canonical import read_json
from provenance.digests import hash_files, sha256_file, tagged_digest
from provenance.fingerprint import PACKAGES as ALL_PACKAGES
from provenance.fingerprint import package_files, sources_digest
from provenance.ledger import read_chain
from train.jobs import PACKAGES
from train.records import differences

_MAX_REASONS = 5


def changed_recipe(bundle: Path, stage: str) -> list[str]:
    """How the bundle's recipe of a stage differs from the one that its ledger names; nothing where it does not."""
    folder = bundle / "model" / "training" / stage
    recipe = read_json(folder / "recipe.json")
    found, recorded = tagged_digest("recipe/1", recipe), _start(folder).get("recipe_digest")
    if found == recorded:
        return []
    reason = f"recipe.json has the digest {found[:12]}, the ledger names {str(recorded)[:12]}"
    table = differences(read_json(folder / "manifest.json")["recipe"], recipe)
    return _first_few([reason, *table])


def changed_code(bundle: Path, stage: str) -> list[str]:
    """Source files of `code/` that are not those with which a stage ran; nothing where all are.

    `identity.json` lists the files of the run one by one; without it, the digest over all packages is compared.
    """
    folder, code = bundle / "model" / "training" / stage, bundle / "model" / "code"
    if (folder / "identity.json").is_file():
        recorded: dict[str, str] = read_json(folder / "identity.json")["sources"]
        here = {entry.path: entry.sha256 for entry in hash_files(code, package_files(PACKAGES, code))}
        names = sorted(name for name in {**recorded, **here} if recorded.get(name) != here.get(name))
        return _first_few([f"code/{name} {_how(name, recorded, here)}" for name in names])
    digest, told = sources_digest(ALL_PACKAGES, code), read_json(folder / "manifest.json")["code"]["packages_digest"]
    return [] if digest == told else [f"code/ has the sources digest {digest[:12]}, the stage recorded {told[:12]}"]


def changed_tokens(bundle: Path, stage: str) -> list[str]:
    """Token shards and file of the order that are not those which a stage's ledger names; nothing where all are."""
    folder = bundle / "model" / "training" / stage
    order = _start(folder)["order"]
    split = read_json(bundle / "dataset" / "tokens" / "tokens.json")["splits"].get(order["split"], {})
    if split.get("digest") != order["tokens_digest"]:
        return [f"tokens.json describes other shards of {order['split']} than the ledger names"]
    files = [file for source in split["sources"] for shard in source["shards"] for file in shard["files"].values()]
    there = [file for file in files if (bundle / "dataset" / file["path"]).is_file()]
    changed = [file["path"] for file in there if sha256_file(bundle / "dataset" / file["path"]) != file["sha256"]]
    reasons = [f"dataset/{path} is not the file that tokens.json lists" for path in changed]
    if "file" in order and sha256_file(folder / ORDER_FILE) != order["file"]["sha256"]:
        reasons.insert(0, f"{ORDER_FILE} is not the file that the ledger names")
    return _first_few(reasons)


def _start(folder: Path) -> dict[str, Any]:
    return next(read_chain(folder / "ledger.jsonl"))


def _how(name: str, recorded: dict[str, str], here: dict[str, str]) -> str:
    if name not in here:
        return "is missing"
    return "was not there when the stage ran" if name not in recorded else "is not the file with which the stage ran"


def _first_few(reasons: list[str]) -> list[str]:
    more = len(reasons) - _MAX_REASONS
    return reasons if more <= 0 else [*reasons[:_MAX_REASONS], f"and {more} more"]
