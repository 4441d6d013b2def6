"""Which checkpoints remain: the rule's, whatever interrupted the run, and each of them whole."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
from small_jobs import differing, records, run_here, small_config, small_job, stop_after
from transformers import AutoModelForCausalLM

from provenance.errors import ArtifactError
from train.checkpoint import restore_checkpoint
from train.checkpoint_records import CHECKPOINTS, read_record
from train.layout import Layout, World
from train.loop import TrainingRun
from train.retention import Retention, remove_old_checkpoints
from train.state import state_digest

STEPS = 10
PHASES = [{"num_steps": STEPS, "sequences_per_step": 4}]
RULES: list[tuple[dict[str, Any], dict[int, str]]] = [
    (
        {"weights_until_step": 2, "full_every_steps": 3, "keep_last_full": 1},
        {0: "weights", 1: "weights", 2: "weights", 9: "full", 10: "full"},
    ),
    (
        {"weights_until_step": 4, "weights_every_steps": 3, "full_every_steps": 2, "keep_last_full": 2},
        {**dict.fromkeys((0, 1, 2, 3, 4, 9), "weights"), **dict.fromkeys((6, 8, 10), "full")},
    ),
    (
        {"weights_until_step": 0, "full_every_steps": 1, "keep_last_full": 1, "published_full_steps": [2, 5]},
        {0: "weights", 2: "full", 5: "full", 9: "full", 10: "full"},
    ),
    (
        {"weights_until_step": 1, "full_every_steps": 4},
        {0: "weights", 1: "weights", 4: "full", 8: "full", 10: "full"},
    ),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


def kept(run_dir: Path) -> dict[int, str]:
    """Step and kind of each checkpoint; optimizer files lie in full ones and nowhere else."""
    found = {}
    for path in sorted((run_dir / CHECKPOINTS).iterdir()):
        record = read_record(path)
        found[record.step] = record.kind
        assert bool(list(path.glob("optimizer*"))) == (record.kind == "full")
        assert (record.state_digest is None) == (record.kind == "weights")
    return found


@pytest.mark.parametrize(("checkpoints", "expected"), RULES)
def test_the_rule_decides_which_checkpoints_remain(
    corpus: Path, tmp_path: Path, checkpoints: dict[str, Any], expected: dict[int, str]
) -> None:
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", phases=PHASES, checkpoints=checkpoints)
    assert kept(run_dir) == expected
    recorded = {record["step"]: record["checkpoint_kind"] for record in records(run_dir, "checkpoint")}
    assert set(expected) <= set(recorded)
    due = {step for step in range(1, STEPS) if step % checkpoints["full_every_steps"] == 0} | {STEPS}
    assert {step for step, kind in recorded.items() if kind == "full"} == due


def test_interruptions_at_every_step_change_nothing(corpus: Path, tmp_path: Path) -> None:
    checkpoints, expected = RULES[1]
    straight = small_jobs.run_small(corpus, tmp_path / "straight", phases=PHASES, checkpoints=checkpoints)
    run_dir = tmp_path / "run"
    job = small_job(corpus, run_dir, small_config(phases=PHASES, checkpoints=checkpoints))
    for step in range(1, STEPS):
        assert not run_here(job, stop_after(run_dir, step))
    assert run_here(job)
    assert kept(run_dir) == expected
    assert differing(run_dir, straight) == []


def test_a_pruned_checkpoint_loads_and_has_its_recorded_digest(corpus: Path, tmp_path: Path) -> None:
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", phases=PHASES, checkpoints=RULES[1][0])
    directory = run_dir / CHECKPOINTS / "step-00000004"
    recorded = next(record for record in records(run_dir, "checkpoint") if record["step"] == 4)
    assert (recorded["checkpoint_kind"], read_record(directory).kind) == ("full", "weights")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert state_digest(model.state_dict()) == read_record(directory).weights_digest == recorded["weights_digest"]
    run = TrainingRun(small_job(corpus, tmp_path / "other", small_config()), Layout(World()))
    with pytest.raises(ArtifactError, match="without optimizer state"):
        restore_checkpoint(directory, run.weights, run.optimizer, run.layout)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("call", ["replace", "unlink", "rmtree", "rmdir"])
def test_retention_cut_off_at_any_call_is_mended_by_the_next_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """At every moment each checkpoint is whole by its record, and a second call leaves what one alone would."""
    keep_all = {"weights_until_step": 4, "full_every_steps": 2}
    rule = Retention.of(small_config(phases=PHASES, checkpoints={**keep_all, "keep_last_full": 1}))
    run_dir = small_jobs.run_small(corpus, tmp_path / "all", phases=PHASES, checkpoints=keep_all)
    done = small_jobs.copy_run(run_dir, tmp_path / "done")
    remove_old_checkpoints(done / CHECKPOINTS, rule)
    assert kept(done) == {0: "weights", 1: "weights", 2: "weights", 4: "weights", 8: "full", 10: "full"}

    owner: Any = {"replace": os, "unlink": Path, "rmtree": shutil, "rmdir": Path}[call]
    function, cut_off = getattr(owner, call), 0
    for number in range(1, 9):
        half_done = small_jobs.copy_run(run_dir, tmp_path / f"half-{number}")
        calls = 0

        def die_at(*arguments: Any, stop: int = number, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Killed
            return function(*arguments, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(owner, call, die_at)
            try:
                remove_old_checkpoints(half_done / CHECKPOINTS, rule)
            except Killed:
                cut_off += 1
        for path in (half_done / CHECKPOINTS).glob("step-*"):
            assert (path / "model.safetensors").is_file()
            assert read_record(path).kind == "weights" or (path / "optimizer.safetensors").is_file()
        for leftover in (half_done / CHECKPOINTS).glob(".*.tmp"):  # as the next start of a job does
            shutil.rmtree(leftover)
        remove_old_checkpoints(half_done / CHECKPOINTS, rule)
        assert differing(half_done, done) == []
    assert cut_off >= 1
