"""`openwright data forget`: tombstones, and a receipt, compared with a brute-force reading of the runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_artifacts import make_artifacts, make_code
from fake_average import make_average
from fake_runs import WINDOW, FakeRun

from data_recipes.order import Order
from data_recipes.tombstones import read_tombstones
from openwright import cli
from openwright.known_runs import known_runs
from provenance.artifacts import latest_artifact
from provenance.canonical import read_json
from provenance.stage import StageContext

RUN = FakeRun("pretrain", "train", seed=1, num_steps=7, skip_steps=((3, 4),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a corpus, a pretraining that leaves two steps out, and a fine-tuning of it."""
    place = tmp_path_factory.mktemp("artifacts") / "tiny"
    make_artifacts(place, make_code(), pretraining=RUN)
    return place


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "release.yaml").write_text("name: tiny\n")
    return tmp_path / "configs"


def _corpus(store: Path) -> Path:
    return next((store / "corpus").glob("*/manifest.json")).parent


def _brute_force(store: Path) -> dict[str, list[int]]:
    """Steps that read each training document: every window of every step against every document's tokens."""
    run = next(run for run in known_runs([store]) if run.stage == "pretrain")
    order = Order.from_json(run.start["order"])
    rows = pq.read_table(_corpus(store) / "documents" / "documents-00000.parquet").to_pylist()
    found: dict[str, list[int]] = {}
    for source in order.sources:
        of_source = [row for row in rows if row["source"] == source.name and row["decision"] == "kept"]
        ends = np.cumsum([row["num_tokens"] for row in of_source]).tolist()
        for row, end in zip(of_source, ends, strict=True):
            begin = end - row["num_tokens"]
            found[row["document_id"]] = [
                step
                for step in range(1, 8)
                if step not in (3, 4)
                and any(
                    order.sources[draw.source] is source
                    and draw.window * WINDOW < end
                    and begin <= draw.window * WINDOW + WINDOW
                    for draw in order.step_draws(step)
                )
            ]
    return found


def _forget(store: Path, config_dir: Path, *document_ids: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    receipt = config_dir.parent / f"receipt-{document_ids[0][:8]}.json"
    arguments = ["data", "forget", "--documents", ",".join(document_ids), "--reason", "asked for", "--in", str(store)]
    code = cli.invoke([*arguments, "--to", str(config_dir), "--receipt", str(receipt), *extra])
    assert code == 0
    return dict(read_json(receipt))


def test_the_receipt_names_every_step_that_read_a_document_and_no_other(store, config_dir):
    expected = _brute_force(store)
    receipt = _forget(store, config_dir, *expected)
    assert {entry["document_id"] for entry in receipt["documents"]} == expected.keys()
    for entry in receipt["documents"]:
        pretrain = [reading for reading in entry["readings"] if reading["stage"] == "pretrain"]
        steps = expected[entry["document_id"]]
        assert [reading["steps"] for reading in pretrain] == ([steps] if steps else [])
        for reading in pretrain:
            assert reading["first_checkpoint"] == min(step for step in reading["checkpoints"] if step >= steps[0])
            assert all(step >= steps[0] for step in reading["checkpoints"])
    assert any(expected.values())
    assert not all(expected.values())


def test_a_run_that_goes_on_from_one_that_read_it_has_seen_it_at_once(store, config_dir):
    document_id = next(name for name, steps in _brute_force(store).items() if steps)
    readings = _forget(store, config_dir, document_id)["documents"][0]["readings"]
    sft = next(reading for reading in readings if reading["stage"] == "sft")
    assert len(sft["inherited_from"]) == 1
    assert sft["first_checkpoint"] == 0
    unread = next(name for name, steps in _brute_force(store).items() if not steps)
    for reading in _forget(store, config_dir, unread)["documents"][0]["readings"]:
        assert reading["inherited_from"] == []
        assert reading["stage"] == "sft"  # a row made from the document may have been read there


def test_an_average_that_a_checkpoint_is_in_which_has_seen_it_is_named(store, config_dir, tmp_path, capsys):
    place = tmp_path / "averaged" / "tiny"
    shutil.copytree(store, place)
    runs = {name: latest_artifact(place, name) for name in ("pretrain", "sft")}
    groups = [{"stage": "pretrain", "steps": [0, 1, 6]}, {"stage": "sft", "steps": [1]}]
    recipe = {"kind": "uniform", "ingredients": groups, "weights": [], "decay": None}
    made = make_average(StageContext("tiny", place, make_code()), runs, recipe, [1] * 4)
    steps = _brute_force(store)
    late = next(name for name, read in steps.items() if read and read[0] in (2, 5, 6))
    (entry,) = _forget(place, config_dir, late)["documents"][0]["averages"]
    assert (entry["average"], entry["num_checkpoints"]) == (str(made.path), 4)
    assert entry["seen"] == [
        *({"run": str(runs[name].path), "step": step} for name, step in (("pretrain", 6), ("sft", 1)))
    ]
    assert "average: 2 of the 4 checkpoints of it have seen it" in capsys.readouterr().out
    unread = next(name for name, read in steps.items() if not read)
    for average in _forget(place, config_dir, unread)["documents"][0]["averages"]:
        assert [seen["run"] for seen in average["seen"]] == [str(runs["sft"].path)]


def test_rows_of_fine_tuning_that_were_made_from_a_document_count_as_it(store, config_dir):
    """Every row of the tiny release is read, so every document is."""
    names = list(_brute_force(store))
    receipt = _forget(store, config_dir, *names)
    sft = [r for entry in receipt["documents"] for r in entry["readings"] if r["stage"] == "sft" and r["steps"]]
    assert sft
    assert {part["split"] for reading in sft for part in reading["shards"]} == {"sft"}


def test_the_next_step_for_a_held_out_document_is_the_evaluation(store, config_dir, capsys):
    rows = pq.read_table(_corpus(store) / "documents" / "documents-00000.parquet").to_pylist()
    held = next(row["document_id"] for row in rows if (row["split"], row["decision"]) == ("heldout", "kept"))
    _forget(store, config_dir, held, extra=("--json",))
    following = json.loads(capsys.readouterr().out)["next"]
    assert f"add {held} to `forget` in {config_dir / 'eval.yaml'}, then openwright run {config_dir}" in following


def test_tombstones_name_the_text_so_that_a_copy_is_forgotten_too(store, config_dir, capsys):
    document_id = next(iter(_brute_force(store)))
    _forget(store, config_dir, document_id[:12], extra=("--date", "2026-11-25", "--json"))
    printed = json.loads(capsys.readouterr().out)
    assert printed["format"] == "openwright-forget-receipt/2"
    assert "release build" in printed["next"]
    (tombstone,) = read_tombstones(config_dir / "tombstones.json")
    rows = pq.read_table(_corpus(store) / "documents" / "documents-00000.parquet").to_pylist()
    text = next(row["text_sha256"] for row in rows if row["document_id"] == document_id)
    assert (tombstone.document_id, tombstone.text_sha256, tombstone.date) == (document_id, text, "2026-11-25")


def test_an_unfinished_run_tells_what_it_has_read_and_what_it_will_read(store, config_dir, tmp_path):
    live = tmp_path / "live" / "tiny"
    shutil.copytree(store / "corpus", live / "corpus")
    run = next(run for run in known_runs([store]) if run.stage == "pretrain")
    work = live / "pretrain" / ".work-aaaa"
    work.mkdir(parents=True)
    lines = (run.place / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"kind":"step"' in line and b'"step":5' in line)
    (work / "ledger.jsonl").write_bytes(b"".join(lines[: at + 1]))
    expected = _brute_force(store)
    name = next(name for name, steps in expected.items() if steps and steps[-1] > 5)
    (reading,) = _forget(live, config_dir, name)["documents"][0]["readings"]
    assert reading["steps"] == [step for step in expected[name] if step <= 5]
    assert reading["steps_to_come"] == [step for step in expected[name] if step > 5]


def test_without_a_place_for_the_receipt_nothing_is_written(store, config_dir, capsys):
    arguments = ["data", "forget", "--documents", next(iter(_brute_force(store))), "--reason", "x", "--in", str(store)]
    receipt = config_dir / "no" / "receipt.json"
    assert cli.invoke([*arguments, "--to", str(config_dir), "--receipt", str(receipt)]) == 2
    assert f"{receipt.parent}: no such directory" in capsys.readouterr().err
    assert not (config_dir / "tombstones.json").exists()


@pytest.mark.parametrize(
    ("documents", "words"), [("abc", "8 to 64"), ("0123456789abcdef", "0 documents"), (",", "names none")]
)
def test_documents_that_are_not_there_are_refused_and_nothing_is_written(store, config_dir, capsys, documents, words):
    arguments = ["data", "forget", "--documents", documents, "--reason", "x", "--in", str(store)]
    assert cli.invoke([*arguments, "--to", str(config_dir)]) == 2
    assert words in capsys.readouterr().err
    assert not (config_dir / "tombstones.json").exists()


@pytest.mark.parametrize("day", ["2026-99-99", "20261125", "today"])
def test_a_date_that_is_none_is_refused(store, config_dir, capsys, day):
    arguments = ["data", "forget", "--documents", next(iter(_brute_force(store))), "--reason", "x", "--in", str(store)]
    assert cli.invoke([*arguments, "--to", str(config_dir), "--date", day]) == 2
    assert "an ISO date" in capsys.readouterr().err
    assert not (config_dir / "tombstones.json").exists()
