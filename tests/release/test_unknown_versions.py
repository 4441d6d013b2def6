"""Another version of a format or construction is UNVERIFIED with its name, and never a FAIL nor a PASS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest

from release import known_formats
from release.checks import verify_release
from release.verify import CheckResult, verify_bundle

Change = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _the_code_is_the_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that differs is a FAIL only where the bundle's code is the running one: make it so."""
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: "the same")


def next_version(path: str) -> Change:
    """Name the next version in a file, as a later program would; everything is hashed anew afterwards."""

    def change(bundle: Path) -> None:
        values = forge.read(bundle / path)
        values["format"] = values["format"].replace("/1", "/2")
        forge.write(bundle / path, {**values, "unheard_of": {"field": 1}})

    return change


def next_corpus_manifest(bundle: Path) -> None:
    path = bundle / "dataset" / "manifest.json"
    values = forge.read(path)
    values["corpus"]["format"] = "openwright-artifact/2"
    forge.write(path, values)


def in_start(**changes: Any) -> Change:
    return lambda bundle: forge.edit_ledger(bundle, "pretrain", lambda records: records[0].update(changes))


def next_order(bundle: Path) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        records[0]["order"].update(version="order/4", rounds=9)

    forge.edit_ledger(bundle, "pretrain", edit)


RUN = "model/training/pretrain"
STANDALONE: list[tuple[Change, str, str]] = [
    (next_version("dataset/manifest.json"), "dataset files", "openwright-dataset/2"),
    (next_corpus_manifest, "stage corpus", "openwright-artifact/2"),
    (next_version(f"{RUN}/manifest.json"), "stage pretrain", "openwright-artifact/2"),
    (next_version("model/evaluation/manifest.json"), "stage eval", "openwright-artifact/2"),
    (next_version("model/code/CODE.json"), "code", "openwright-code/2"),
    (next_version("dataset/tokens/tokens.json"), "token shards", "openwright-tokens/2"),
    (next_version("dataset/documents/codes.json"), "documents", "openwright-codes/2"),
    (next_version("dataset/sources.lock"), "documents", "openwright-sources/2"),
    (next_version("dataset/corpus.json"), "documents", "openwright-corpus/2"),
    (in_start(format="openwright-ledger/2", unheard_of=1), "pretrain ledger", "openwright-ledger/2"),
    (next_order, "pretrain ledger", "order/4"),
    (next_version(f"{RUN}/run.json"), "pretrain run", "openwright-run/2"),
    (
        next_version("model/checkpoints/pretrain/step-00000002/checkpoint.json"),
        "pretrain checkpoints",
        "openwright-checkpoint/2",
    ),
    (next_version("model/evaluation/record.json"), "evaluation", "openwright-evaluation/2"),
]


@pytest.mark.parametrize(("change", "check", "version"), STANDALONE, ids=[f"{c[2]}-{c[1]}" for c in STANDALONE])
def test_the_standalone_verifier_leaves_another_version_unverified(
    copy_of: Callable[[str], Path], change: Change, check: str, version: str
) -> None:
    bundle = copy_of("plain")
    change(bundle)
    forge.reseal(bundle)
    results = {result.name: result for result in verify_bundle(bundle, tokens="all")}
    assert [result for result in results.values() if result.verdict == "FAIL"] == []
    assert results[check].verdict == "UNVERIFIED"
    assert version in results[check].detail


def with_libraries(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}


DOCUMENTS = ("openness verdict", "generated documents")
WITH_LIBRARIES: list[tuple[Change, tuple[str, ...], str]] = [
    (next_version("dataset/documents/codes.json"), ("document rows", "texts", *DOCUMENTS), "openwright-codes/2"),
    (next_version("model/openness/components.json"), ("texts", *DOCUMENTS), "openwright-components/2"),
    (in_start(format="openwright-ledger/2"), ("order by numpy", *DOCUMENTS), "openwright-ledger/2"),
    (next_order, ("order by numpy", *DOCUMENTS), "order/4"),
    (next_version("model/evaluation/record.json"), ("evaluation rescored", *DOCUMENTS), "openwright-evaluation/2"),
    (next_version("model/evaluation/results.json"), ("evaluation rescored", *DOCUMENTS), "openwright-results/2"),
    (next_version(f"{RUN}/run.json"), ("order by numpy", *DOCUMENTS), "openwright-run/2"),
    (next_version("dataset/sources.lock"), DOCUMENTS, "openwright-sources/2"),
]


@pytest.mark.parametrize(("change", "checks", "version"), WITH_LIBRARIES, ids=[c[2] for c in WITH_LIBRARIES])
def test_the_checks_with_libraries_leave_another_version_unverified(
    copy_of: Callable[[str], Path], change: Change, checks: tuple[str, ...], version: str
) -> None:
    bundle = copy_of("plain")
    assert {with_libraries(bundle)[check].verdict for check in checks} == {"PASS"}
    change(bundle)
    forge.reseal(bundle)
    results = with_libraries(bundle)
    assert [result for result in results.values() if result.verdict == "FAIL"] == []
    assert {results[check].verdict for check in checks} == {"UNVERIFIED"}
    assert all(f"{version}; this program reads" in results[check].detail for check in checks)


def test_another_family_is_a_failure_and_no_other_version(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    values = forge.read(bundle / RUN / "run.json")
    forge.write(bundle / RUN / "run.json", {**values, "format": "openwright-walk/1"})
    forge.reseal(bundle)
    results = {result.name: result for result in verify_bundle(bundle, tokens="none")}
    assert results["pretrain run"].verdict == "FAIL"


def test_the_versions_written_out_are_those_of_the_program() -> None:
    from data_recipes.corpus import SOURCES_FORMAT
    from train.checkpoint_records import CHECKPOINT_FORMAT

    assert known_formats.SOURCES_FORMAT == SOURCES_FORMAT
    assert known_formats.CHECKPOINT_FORMAT == CHECKPOINT_FORMAT
