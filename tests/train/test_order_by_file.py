"""Runs whose order a file gives: what they read, the same bytes after a stop and in a replay, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_jobs
import tiny_runs
from pydantic import ValidationError
from small_jobs import differing, records, run_here, small_config, small_job, stop_after

from data_recipes.order import Draw, Order
from data_recipes.order_file import ORDER_FILE, read_order
from provenance.artifacts import Artifact
from provenance.canonical import write_json
from provenance.config import recipe_of
from provenance.digests import sha256_file
from provenance.errors import ConfigError, DataError, ResumeMismatch
from train.branch import check_same_past, leave_out
from train.jobs import pretrain
from train.replay import ReplayRequest, replay
from train.run_order import build_order, open_windows
from train.settings import OrderFile, PretrainConfig

Pin = dict[str, str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def formula(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps whose order is an `order/1`."""
    return small_jobs.run_small(corpus.path, tmp_path_factory.mktemp("formula") / "run")


@pytest.fixture(scope="module")
def numbers(formula: Path) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The windows that it read, one after another."""
    order = Order.from_json(records(formula)[0]["order"])
    return np.array([number for step in range(1, 7) for number in order.window_ids(step)], "<u4")


@pytest.fixture(scope="module")
def by_file(corpus: Artifact, numbers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads the same windows in the same order from a file."""
    run_dir = tmp_path_factory.mktemp("by-file") / "run"
    return run_by_file(corpus.path, run_dir, numbers)


def pin(corpus: Path, path: Path, **changes: str) -> Pin:
    digest = open_windows(small_config(), corpus).tokens_digest
    return {"path": path.name, "sha256": sha256_file(path), "dtype": "u32", "tokens_digest": digest, **changes}


def config_of(order: Pin, **changes: Any) -> PretrainConfig:
    return small_config(data={**small_jobs.SMALL["data"], "order": order}, **changes)


def write(directory: Path, numbers: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    numbers.tofile(directory / ORDER_FILE)
    return directory / ORDER_FILE


def run_by_file(corpus: Path, run_dir: Path, numbers: Any, stops: tuple[int, ...] = ()) -> Path:
    path = write(run_dir, numbers)
    job = small_job(corpus, run_dir, config_of(pin(corpus, path)), order_file=str(path))
    for step in stops:
        assert not run_here(job, stop_after(run_dir, step))
    assert run_here(job)
    return run_dir


def test_the_windows_of_a_formula_in_a_file_give_the_same_steps_and_weights(formula: Path, by_file: Path) -> None:
    assert records(by_file, "step")[0]["loss"] == records(formula, "step")[0]["loss"]
    for kind in ("step", "evaluation", "checkpoint", "end"):
        one, other = ([{**record, "previous": ""} for record in records(run, kind)] for run in (formula, by_file))
        assert one == other
    start = records(by_file)[0]["order"]
    assert start["version"] == "order/3"
    assert start["file"] == {"dtype": "u32", "sha256": sha256_file(by_file / ORDER_FILE)}
    assert read_order(start, by_file).order_digest(4) == records(formula, "step")[3]["order_digest"]


def test_a_stopped_run_goes_on_to_the_bytes_of_the_straight_one(
    corpus: Artifact, by_file: Path, numbers: Any, tmp_path: Path
) -> None:
    assert differing(run_by_file(corpus.path, tmp_path / "run", numbers, stops=(3,)), by_file) == []
    changed = numbers[::-1].copy()
    path = write(tmp_path / "other", changed)
    job = small_job(corpus.path, tmp_path / "run", config_of(pin(corpus.path, path)), order_file=str(path))
    with pytest.raises(ResumeMismatch, match=r"order\.file\.sha256"):
        run_here(job)


def test_a_replay_reads_the_file_beside_the_recipe_and_shows_a_forged_one(
    corpus: Artifact, by_file: Path, numbers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forger gives step 4 the windows of step 3 and pins the file anew: other losses and weights come of it."""
    monkeypatch.setattr("train.replay.launch", small_jobs.launch_here(False))
    forged_numbers = numbers.copy()
    forged_numbers[12:16] = numbers[8:12]
    found: dict[str, bytes] = {}
    for name, used in (("honest", numbers), ("forged", forged_numbers)):
        path = write(tmp_path / name, used)
        write_json(tmp_path / name / "recipe.json", recipe_of(config_of(pin(corpus.path, path))))
        replay(request(tmp_path / name, by_file, corpus.path))
        found[name] = (tmp_path / name / "out" / "ledger.jsonl").read_bytes()
    assert found["honest"] in (by_file / "ledger.jsonl").read_bytes()
    assert found["honest"].count(b'"kind":"step"') == 2
    replayed, recorded = json.loads(found["forged"].splitlines()[-2]), records(by_file, "step")[3]
    assert replayed["step"] == 4
    keys = ("order_digest", "token_digest", "loss", "gradient_norm", "parameter_checksum")
    assert all(replayed[key] != recorded[key] for key in keys)


def request(folder: Path, run_dir: Path, corpus: Path) -> ReplayRequest:
    return ReplayRequest(
        format="openwright-replay/2",
        stage="pretrain",
        recipe=str(folder / "recipe.json"),
        corpus=str(corpus),
        base_checkpoint="",
        from_checkpoint=str(run_dir / "checkpoints" / "step-00000002"),
        last_step=4,
        output=str(folder / "out"),
        num_processes=1,
    )


def test_the_stage_keeps_the_file_among_its_results_and_refuses_another_before_anything_runs(
    corpus: Artifact, numbers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.jobs.launch", small_jobs.launch_here(False))
    path = write(tmp_path / "data", numbers)
    execution = {"data_dir": str(path.parent), "num_processes": 1}
    context = tiny_runs.context(tmp_path)
    wrong = config_of(pin(corpus.path, path, sha256="0" * 64), execution=execution)
    with pytest.raises(DataError, match=sha256_file(path)):
        pretrain(wrong, context, corpus)
    made = pretrain(config_of(pin(corpus.path, path), execution=execution), context, corpus)
    assert sha256_file(path) in {entry.sha256 for entry in made.results if entry.path == ORDER_FILE}
    # The same numbers in another place of the machine are the same run.
    shutil.move(path.parent, tmp_path / "moved")
    execution = {"data_dir": str(tmp_path / "moved"), "num_processes": 1}
    again = pretrain(config_of(pin(corpus.path, tmp_path / "moved" / ORDER_FILE), execution=execution), context, corpus)
    assert again == made


def test_an_order_that_does_not_fit_is_refused_before_the_first_step(
    corpus: Artifact, numbers: Any, tmp_path: Path
) -> None:
    windows = open_windows(small_config(), corpus.path)
    beyond = numbers.copy()
    beyond[-1] = sum(pool.num_windows for pool in windows.pools)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (numbers, {"tokens_digest": "0" * 64}, "windows of shards with the digest 0000"),
        (numbers[:-1], {}, "23 windows"),
        (beyond, {}, "at place 23"),
        (numbers.astype("<u8"), {}, "every second number is 0"),
    ]
    for number, (used, changes, told) in enumerate(cases):
        path = write(tmp_path / str(number), used)
        with pytest.raises(DataError, match=told):
            build_order(config_of(pin(corpus.path, path, **changes)), windows, path)
    path = write(tmp_path / "often", np.full(24, 3, "<u4"))
    config = config_of(pin(corpus.path, path))
    limited = config.model_copy(update={"data": config.data.model_copy(update={"max_epochs": 0.1})})
    with pytest.raises(ConfigError, match="'alpha' would be read"):
        build_order(limited, windows, path)


def test_rows_of_conversations_are_read_in_the_order_of_a_file(corpus: Artifact, tmp_path: Path) -> None:
    plain = tiny_runs.sft_config(phases=[{"num_steps": 5, "sequences_per_step": 8}])
    windows = open_windows(plain, corpus.path)
    path = write(tmp_path, np.arange(40, dtype="<u4")[::-1].copy())
    order = {"path": "rows.bin", "sha256": sha256_file(path), "dtype": "u32", "tokens_digest": windows.tokens_digest}
    config = plain.model_copy(update={"data": plain.data.model_copy(update={"order": OrderFile(**order)})})
    found = build_order(config, windows, path)
    ids, mask = windows.read_draws(found, found.step_draws(5))
    for row, number in enumerate(range(7, -1, -1)):
        expected, trained = windows.read(Draw(0, 0, number))
        assert (ids[row] == expected).all()
        assert (mask[row] == trained).all()


def test_what_has_no_place_beside_a_file_is_refused_by_name(corpus: Artifact, numbers: Any, tmp_path: Path) -> None:
    order = pin(corpus.path, write(tmp_path, numbers))
    phase = {"num_steps": 6, "sequences_per_step": 4}
    for changes, told in (
        ({"phases": [{**phase, "mixture": {"alpha": 1}}]}, "neither a mixture nor epochs"),
        ({"phases": [{**phase, "window_tokens": 12}]}, "no other length"),
    ):
        with pytest.raises(ValidationError, match=told):
            config_of(order, **changes)
    for wrong in ({**order, "dtype": "i64"}, {**order, "path": "../order.bin"}, {**order, "tokens_digest": "1"}):
        with pytest.raises(ValidationError):
            config_of(wrong)
    config, windows = config_of(order), open_windows(small_config(), corpus.path)
    with pytest.raises(ConfigError, match="a file gives the order of this run"):
        leave_out(config, build_order(config, windows, tmp_path / ORDER_FILE), 2, ["beta"])
    with pytest.raises(ResumeMismatch, match=r"data\.order would be"):
        check_same_past(small_config(), config, 2, None)
