"""Whether the source tree of a bundle is the one that its stages ran (rule BND-04)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from provenance.canonical import read_json
from provenance.digests import hash_files
from provenance.fingerprint import CODE_RECORD, PACKAGES, fingerprint_digest, sources_digest
from provenance.stage import StageSpec
from release.facts import BundleFacts
from release.verify import CheckResult


def stage_specs() -> dict[str, StageSpec]:
    """What every stage's fingerprint is made of besides recipe and parents."""
    from data_recipes.corpus import SPEC as CORPUS_SPEC  # heavy imports, and only needed where digests differ
    from eval.stage import SPEC as EVAL_SPEC
    from train.average import SPEC as AVERAGE_SPEC
    from train.jobs import PRETRAIN_SPEC, SFT_SPEC

    return {spec.kind: spec for spec in (CORPUS_SPEC, PRETRAIN_SPEC, SFT_SPEC, AVERAGE_SPEC, EVAL_SPEC)}


def judge_code(bundle: Path, found: CheckResult) -> CheckResult:
    """Judge what `verify.py` leaves open: stages that ran from other packages than `code/` holds, as after a commit.

    Args:
        bundle: directory that holds `model/` and `dataset/`.
        found: the result of its check `code`.

    Returns:
        PASS where each stage's fingerprint follows from `code/`, so that only packages changed which it may not import;
        else the result with the reason.
    """
    try:
        problem = code_problem(BundleFacts(bundle))
    except Exception as error:  # records of a stranger's can be anything
        problem = f"not judged: {type(error).__name__}"
    if problem:
        return replace(found, detail=f"{found.detail.partition(';')[0]}; {problem}")
    told = "packages changed since a stage ran, and none that it may import: its fingerprint follows from code/"
    return replace(found, verdict="PASS", detail=told)


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


def _libraries(spec: StageSpec, recipe: Any) -> tuple[str, ...]:
    """The libraries of a stage; those of a corpus depend on the types of its sources."""
    from data_recipes.corpus import libraries_for

    return libraries_for(source["type"] for source in recipe["sources"]) if spec.kind == "corpus" else spec.libraries


def _fingerprint_holds(facts: BundleFacts, stage: str) -> bool:
    """Whether the stage's fingerprint follows from `code/`: packages that it may not import can have changed since."""
    manifest, spec = facts.stage_manifest(stage), stage_specs()[stage]
    observed = facts.environment(stage).get("distributions", {})
    versions = {canonicalize_name(name): found["version"] for name, found in observed.items()}
    libraries = {name: versions.get(canonicalize_name(name), "") for name in _libraries(spec, manifest["recipe"])}
    sources = sources_digest(spec.packages, facts.model / "code")
    found = fingerprint_digest(stage, manifest["recipe"], manifest["parents"], sources, libraries)
    return bool(found == manifest["fingerprint"])
