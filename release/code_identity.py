"""Whether the source tree of a bundle is the one that its stages ran (rule BND-04)."""

import re
from collections.abc import Iterator

from provenance.canonical import read_json
from provenance.digests import hash_files, tagged_digest
from provenance.fingerprint import CODE_RECORD, PACKAGES, sources_digest
from release.facts import BundleFacts

STAGE_PACKAGES = {
    "corpus": ("provenance", "data_recipes"),
    "pretrain": ("provenance", "data_recipes", "train"),
    "sft": ("provenance", "data_recipes", "train"),
    "eval": ("provenance", "data_recipes", "eval"),
}
"""Packages whose sources a stage may import, as the layers say."""


def code_problem(facts: BundleFacts) -> str:
    """Return the first reason why `code/` is not the source tree that ran, or the empty string."""
    return next(_problems(facts), "")


def _problems(facts: BundleFacts) -> Iterator[str]:
    code = facts.model / "code"
    record = read_json(code / CODE_RECORD)
    if not re.fullmatch(r"[0-9a-f]{40}", str(record["commit"])):
        yield "CODE.json names no commit"
    files = sorted(path for path in code.rglob("*") if path.is_file() and path != code / CODE_RECORD)
    found = {entry.path: entry.as_json() for entry in hash_files(code, files)}
    listed = {entry["path"]: entry for entry in record["files"]}
    for path in sorted(found.keys() | listed.keys()):
        if path not in listed:
            yield f"code/{path} is not listed in CODE.json"
        if found.get(path) != listed.get(path):
            yield f"code/{path} is missing or not the file that CODE.json lists"
    whole = sources_digest(PACKAGES, code)
    for stage in facts.components["stages"]:
        recorded = facts.stage_manifest(stage)["code"]
        if recorded["dirty"]:
            yield f"stage {stage} ran from a source tree with uncommitted changes"
        if recorded["packages_digest"] != whole and not _fingerprint_holds(facts, stage):
            yield f"stage {stage} ran another source tree (commit {recorded['commit'][:12]}) than code/"


def _fingerprint_holds(facts: BundleFacts, stage: str) -> bool:
    """Whether the stage's fingerprint follows from `code/`: packages that it may not import can have changed since."""
    manifest = facts.stage_manifest(stage)
    libraries = facts.stage_libraries(stage)
    if libraries is None:
        return False
    value = {
        "stage": stage,
        "recipe": manifest["recipe"],
        "parents": manifest["parents"],
        "sources": sources_digest(STAGE_PACKAGES[stage], facts.model / "code"),
        "libraries": libraries,
    }
    return tagged_digest("fingerprint/1", value) == manifest["fingerprint"]
