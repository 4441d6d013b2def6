"""A release without a document that was taken down: what is left out, what still verifies, what a forger meets."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forge
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Built
from fake_artifacts import make_evaluation

from data_recipes.lookup import Lookup
from data_recipes.order import Order
from data_recipes.tombstones import Tombstone, read_tombstones, write_tombstones
from provenance.artifacts import Artifact
from provenance.canonical import read_json
from provenance.errors import ReleaseError
from provenance.ledger import read_chain
from release.bundle import bundle_path
from release.checks import verify_release
from release.rebuild import run_rebuild
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.replay_heldout import heldout_not_here
from release.replay_run import run_replay
from release.replay_segments import Segment, segment_of_steps
from release.replay_tokens import tokens_not_here
from release.tombstone_check import check_tombstones
from release.verify import verify_bundle
from train.preflight import sampled_data_digest

CHANGED = {"token shards", "pretrain tokens", "sft tokens", "texts"}
"""Checks that a takedown leaves UNVERIFIED; `sft tokens` only where a row of the document was read."""


def _lookup(bundle: Path) -> Lookup:
    start = next(read_chain(bundle / "model" / "training" / "pretrain" / "ledger.jsonl"))["order"]
    return Lookup(bundle / "dataset", Order.from_json(start), "train", start["window_tokens"])


@pytest.fixture(scope="session")
def forgotten(built: Built) -> tuple[str, list[int]]:
    """A document that some steps read and some did not, and the steps that read it."""
    lookup = _lookup(built.bundle)
    rows = [row for step in (1, 2, 3, 4) for window in lookup.step(step) for row in window.documents]
    found = min(rows, key=lambda row: (len(lookup.steps_that_read(row)), row.document_id))
    return found.document_id, lookup.steps_that_read(found)


@pytest.fixture(scope="session")
def tombstones(built: Built, forgotten: tuple[str, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config directory with a tombstone."""
    target = tmp_path_factory.mktemp("takedown") / built.config_dir.name
    shutil.copytree(built.config_dir, target)
    write_tombstones(target / "tombstones.json", [Tombstone(forgotten[0], "0" * 64, "2026-11-25", "asked for")])
    return target


@pytest.fixture
def without(rebuild: Callable[..., Artifact], tombstones: Path) -> Path:
    """The release built again without the document, as a new version."""
    return bundle_path(rebuild(config_dir=tombstones, version="0.2"))


@pytest.fixture
def forged(without: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(without, tmp_path / "forged"))


def _verdicts(bundle: Path) -> dict[str, Any]:
    return {result.name: result for result in verify_release(bundle, expect=None, tokens="all")}


def _text_rows(bundle: Path) -> list[dict[str, Any]]:
    paths = sorted((bundle / "dataset" / "text").glob("train-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_the_text_and_the_tokens_of_the_document_are_gone_and_its_row_stays(built, without, forgotten):
    dataset = without / "dataset"
    kept = {row["document_id"] for row in _text_rows(built.bundle)}
    assert {row["document_id"] for row in _text_rows(without)} == kept - {forgotten[0]}
    talks = [pq.read_table(path) for path in sorted((dataset / "conversations").glob("train-*.parquet"))]
    assert forgotten[0] not in [name for table in talks for name in table["document_id"].to_pylist()]
    row = _lookup(built.bundle).find(forgotten[0])
    assert _lookup(without).find(forgotten[0]) == row  # never renumbered
    path = f"tokens/train/{row.source}/tokens-000.bin"
    assert not (dataset / path).exists()
    _, begin, end = _lookup(built.bundle).place(row)
    before = np.fromfile(built.bundle / "dataset" / path, "<u2")
    after = np.fromfile(dataset / "redacted" / path, "<u2")
    assert (after[begin:end] == read_json(dataset / "tombstones.json")["blanked"]["token"]).all()
    assert (np.delete(after, np.s_[begin:end]) == np.delete(before, np.s_[begin:end])).all()


def test_only_what_the_document_touched_becomes_unverified(built, without, forgotten):
    before, after = _verdicts(built.bundle), _verdicts(without)
    assert {result.verdict for result in after.values()} == {"PASS", "UNVERIFIED"}
    changed = {name for name, found in before.items() if after[name].verdict != found.verdict}
    assert {"token shards", "pretrain tokens", "texts"} <= changed <= CHANGED
    assert after["tombstones"].verdict == "PASS"
    steps = len(forgotten[1])
    assert f": {steps} read tokens that are not shipped, the others are equal" in after["pretrain tokens"].detail
    assert 0 < steps < 4


def test_another_bundle_of_the_same_version_is_refused(rebuild, without, tombstones):
    with pytest.raises(ReleaseError, match="takes 0 documents down instead of 1") as refused:
        rebuild(config_dir=tombstones)
    assert "new version" in refused.value.next_command
    assert bundle_path(rebuild(config_dir=tombstones, version="0.2")) == without


def test_what_is_left_out_is_no_missing_evidence_and_is_told(without, built):
    verdicts = {row["id"]: row["result"] for row in read_json(without / "model/openness/verdict.json")["results"]}
    before = {row["id"]: row["result"] for row in read_json(built.bundle / "model/openness/verdict.json")["results"]}
    assert verdicts == before
    assert "1 kept documents were taken down" in (without / "dataset" / "README.md").read_text(encoding="utf-8")
    told = [(path / "dataset" / "ATTRIBUTION.txt").read_text(encoding="utf-8") for path in (built.bundle, without)]
    assert told[0] != told[1]


def test_the_content_digest_of_the_data_stays_and_the_release_is_another(built, without):
    before, after = (read_json(path / "model" / "manifest.json") for path in (built.bundle, without))
    assert before["dataset"]["content_digest"] == after["dataset"]["content_digest"]
    assert before["content_digest"] != after["content_digest"]


def test_steps_that_read_the_document_are_not_replayed_and_others_can_be(without, forgotten):
    read = forgotten[1][0]
    lost = tokens_not_here(without, segment_of_steps(without, "pretrain", read, read))
    assert "was taken down" in lost
    other = next(step for step in (1, 3) if step not in forgotten[1])  # replays begin after checkpoints 0 and 2
    assert tokens_not_here(without, segment_of_steps(without, "pretrain", other, other)) == ""


def test_what_a_training_process_looks_at_first_is_found_in_the_copies(without):
    digest = sampled_data_digest(without / "dataset", ["train", "sft"])
    _, path = _blanked_file(without)
    assert path.is_file()
    assert digest == sampled_data_digest(without / "dataset", ["sft", "train"])


def test_a_replay_of_such_steps_is_unverified_before_anything_is_run(without, forgotten, tmp_path):
    segment = segment_of_steps(without, "pretrain", forgotten[1][0], forgotten[1][0])

    def run(*arguments: object) -> None:
        raise AssertionError("the bundle's code was started")

    interpreter = SimpleNamespace(run=run)
    layout = SimpleNamespace(num_processes=1, shard_size=1)
    ending = run_replay(without, segment, layout, tmp_path, interpreter)
    assert (ending.verdict, "was taken down" in ending.reason) == ("UNVERIFIED", True)


def test_steps_of_a_source_whose_tokens_are_not_shipped_are_not_replayed(rebuild):
    bundle = bundle_path(rebuild(shipping={"gamma": "index", "beta": "index"}))
    segment = segment_of_steps(bundle, "pretrain", 1, 1)
    assert "not shipped" in tokens_not_here(bundle, segment)
    assert "source beta, which the run is scored on" in heldout_not_here(bundle, segment)


def test_a_rebuild_leaves_the_document_out_as_well_and_gives_the_same_digest(without, rebuild, forgotten, tmp_path):
    """The stages are made again from the sources, document and all; `made` stands for the release stage alone."""
    plan = plan_rebuild(without, tmp_path, RebuildOptions())
    assert "1 documents that were taken down are fetched and trained on once more" in plan.lines()[1]
    assert [tombstone.document_id for tombstone in read_tombstones(plan.config_dir / "tombstones.json")] == [
        forgotten[0]
    ]
    made = bundle_path(rebuild(config_dir=plan.config_dir, version="0.2"))
    digests = [read_json(bundle / "model" / "manifest.json")["content_digest"] for bundle in (without, made)]
    assert digests[0] == digests[1]
    assert forgotten[0] not in {row["document_id"] for row in _text_rows(made)}
    assert (made / "dataset" / "tombstones.json").read_bytes() == (without / "dataset" / "tombstones.json").read_bytes()


def test_a_source_that_took_the_document_out_is_unverified_and_the_reason_is_told(without, tmp_path):
    error = {"error": "SourceError", "found": "another sha256", "where": "source alpha"}
    stopped = SimpleNamespace(returncode=1, stdout=json.dumps(error).encode())
    interpreter = SimpleNamespace(run=lambda *arguments, **options: stopped)
    corpus, whole = run_rebuild(plan_rebuild(without, tmp_path, RebuildOptions()), interpreter).results
    assert (corpus.verdict, whole.verdict) == ("UNVERIFIED", "UNVERIFIED")
    assert "1 documents were taken down, and a source without them is no longer this one" in corpus.detail


# ---- a held-out document


@pytest.fixture(scope="session")
def heldout(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The held-out document that the first held-out window begins with, and a config directory with its tombstone."""
    texts = pq.read_table(built.bundle / "dataset" / "text" / "heldout-00000.parquet")
    document_id = texts["document_id"][0].as_py()
    target = tmp_path_factory.mktemp("heldout-takedown") / built.config_dir.name
    shutil.copytree(built.config_dir, target)
    write_tombstones(target / "tombstones.json", [Tombstone(document_id, "0" * 64, "2026-11-25", "asked for")])
    return document_id, target


@pytest.fixture(scope="session")
def evaluated_without(built: Built, heldout: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The evaluation made again without that document."""
    runs = {stage: built.artifacts[stage] for stage in ("pretrain", "sft")}
    context = replace(built.context, store=tmp_path_factory.mktemp("evaluated-without"))
    return make_evaluation(context, built.artifacts["corpus"], runs, [heldout[0]])


@pytest.fixture
def without_heldout(rebuild: Callable[..., Artifact], heldout: tuple[str, Path], evaluated_without: Artifact) -> Path:
    return bundle_path(rebuild(config_dir=heldout[1], version="0.3", evaluation=evaluated_without))


def test_a_held_out_document_is_refused_until_it_is_evaluated_without(rebuild, heldout):
    document_id, config_dir = heldout
    with pytest.raises(ReleaseError, match="may quote it") as refused:
        rebuild(config_dir=config_dir, version="0.3")
    assert f"forget: [{document_id}]" in refused.value.next_command
    assert str(config_dir / "eval.yaml") in refused.value.next_command


def test_a_held_out_document_is_taken_down_with_a_new_evaluation(built, without_heldout, heldout):
    texts = [pq.read_table(path) for path in (without_heldout / "dataset" / "text").glob("heldout-*.parquet")]
    assert heldout[0] not in [name for table in texts for name in table["document_id"].to_pylist()]
    before, after = _verdicts(built.bundle), _verdicts(without_heldout)
    assert {result.verdict for result in after.values()} == {"PASS", "UNVERIFIED"}
    changed = {name for name, found in before.items() if after[name].verdict != found.verdict}
    assert changed == {"token shards", "texts"}
    assert after["tombstones"].verdict == "PASS"
    digests = [
        read_json(path / "model" / "manifest.json")["content_digest"] for path in (built.bundle, without_heldout)
    ]
    assert digests[0] != digests[1]


def test_steps_that_are_scored_on_it_are_not_replayed_and_others_can_be(without_heldout):
    for first, last in ((1, 1), (3, 3)):  # scored before step 1 and after step 3
        lost = heldout_not_here(without_heldout, Segment("pretrain", without_heldout, first, last))
        assert "scored on a document of beta that was taken down" in lost
    assert heldout_not_here(without_heldout, Segment("pretrain", without_heldout, 2, 2)) == ""


def test_an_evaluation_that_may_quote_it_is_found(without_heldout, tmp_path):
    forged = Path(shutil.copytree(without_heldout, tmp_path / "forged"))
    path = forged / "model" / "evaluation" / "manifest.json"
    manifest = read_json(path)
    forge.write(path, {**manifest, "recipe": {**manifest["recipe"], "forget": []}})
    found = check_tombstones(forged)
    assert (found.verdict, "may quote" in found.detail) == ("FAIL", True)


# ---- negative controls: each names the check that has to catch it


def _blanked_file(bundle: Path) -> tuple[dict[str, Any], Path]:
    tombstones = read_json(bundle / "dataset" / "tombstones.json")
    file = next(file for file in tombstones["blanked"]["files"] if "/train/" in file["path"])
    return file, bundle / "dataset" / "redacted" / file["path"]


def test_another_token_beside_the_blank_ones_is_found_by_the_token_digests(forged):
    file, path = _blanked_file(forged)
    tokens = np.fromfile(path, "<u2")
    for number in set(range(len(tokens))) - {n for begin, end in file["ranges"] for n in range(begin, end)}:
        tokens[number] ^= 1
    path.write_bytes(tokens.tobytes())
    forge.reseal(forged)
    found = {result.name: result.verdict for result in verify_bundle(forged, tokens="all")}
    assert found["pretrain tokens"] == "FAIL"
    assert found["dataset files"] == "PASS"


def test_a_document_that_was_not_blanked_is_found(forged, built):
    file, path = _blanked_file(forged)
    shutil.copyfile(built.bundle / "dataset" / file["path"], path)
    forge.reseal(forged)
    assert "is not blank" in _verdicts(forged)["tombstones"].detail


def test_more_blank_than_the_document_is_found(forged):
    file, path = _blanked_file(forged)
    tombstones = read_json(forged / "dataset" / "tombstones.json")
    for entry in tombstones["blanked"]["files"]:
        if entry["path"] == file["path"]:
            entry["ranges"] = [[0, path.stat().st_size // 2]]
    forge.write(forged / "dataset" / "tombstones.json", tombstones)
    path.write_bytes(np.full(path.stat().st_size // 2, tombstones["blanked"]["token"], "<u2").tobytes())
    forge.reseal(forged)
    found = _verdicts(forged)["tombstones"]
    assert (found.verdict, "what is blank is not" in found.detail) == ("FAIL", True)


def test_a_text_that_is_there_although_a_tombstone_names_it_is_found(forged, built):
    for path in (forged / "dataset" / "text").glob("train-*.parquet"):
        path.unlink()
    rows = pa.Table.from_pylist(_text_rows(built.bundle))
    pq.write_table(rows, forged / "dataset" / "text" / "train-shipped-00000.parquet")
    forge.reseal(forged)
    found = _verdicts(forged)["texts"]
    assert (found.verdict, "a tombstone names it" in found.detail) == ("FAIL", True)


def test_hidden_tokens_without_a_tombstone_are_found(forged):
    tombstones = read_json(forged / "dataset" / "tombstones.json")
    forge.write(forged / "dataset" / "tombstones.json", {**tombstones, "tombstones": []})
    forge.reseal(forged)
    assert _verdicts(forged)["tombstones"].verdict == "FAIL"


@pytest.mark.parametrize(
    "ranges", [[[1]], [[5, 2, 1]], [[0, 2**52]], [["a", "b"]], "all", [[-1, 3]], [[0, 10**30]]], ids=str
)
def test_hostile_tombstones_end_in_a_verdict_that_is_no_pass(forged, ranges):
    path = forged / "dataset" / "tombstones.json"
    tombstones = read_json(path)
    for file in tombstones["blanked"]["files"]:
        file["ranges"] = ranges
    forge.write(path, tombstones)
    forge.reseal(forged)
    found = {result.name: result.verdict for result in verify_bundle(forged, tokens="all")}
    assert found["token shards"] != "PASS"
    assert found["pretrain tokens"] != "PASS"
    assert _verdicts(forged)["tombstones"].verdict != "PASS"
