"""Negative controls of the ledger: what goes wrong in one step is seen in that step's record, and not before.

And steps that are left out: their windows are not read, at any layout and after any interruption.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_jobs
import tiny_runs
import torch
import torch.distributed as dist
from small_jobs import die, differing, records, run_here, run_job_at, small_config, small_job

import train.gradients
import train.loop
import train.reduction
from train.batch import StepBatch, read_batch
from train.gradients import ExactGradients, Passes
from train.ledger_queue import LedgerQueue

WRONG_STEP = 3
WEIGHTS_FIELDS = {"gradient_norm", "parameter_checksum"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def true(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("true") / "run")


def first_difference(run_dir: Path, true: Path) -> tuple[int, set[str]]:
    """Step of the first step record that differs, and the fields in which it does."""
    for found, expected in zip(records(run_dir, "step"), records(true, "step"), strict=True):
        fields = {key for key in expected if found[key] != expected[key]} - {"previous"}
        if fields:
            return int(expected["step"]), fields
    return 0, set()


def in_step(step: int, wrong: Callable[[], Any]) -> None:
    """Do something wrong while one step's gradients are computed; what it returns undoes it."""
    compute = ExactGradients.compute

    def compute_or_not(self: ExactGradients, batch: StepBatch) -> Any:
        if batch.step != step:
            return compute(self, batch)
        undo = wrong()
        try:
            return compute(self, batch)
        finally:
            undo()

    ExactGradients.compute = compute_or_not  # type: ignore[method-assign]


def replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def drop_the_other_processes(run_dir: Path) -> None:
    """A half-reduced gradient: this process keeps what it had of it itself, two copies or more."""

    def own_alone(flat_N: torch.Tensor, **options: Any) -> Any:
        if not options.get("async_op"):
            return all_reduce(flat_N, **options)
        own_N = flat_N.clone()
        all_reduce(flat_N, group=options["group"])
        flat_N.copy_(own_N)
        return Done()

    all_reduce = dist.all_reduce

    def drop() -> Callable[[], None]:
        undo_pairs = replace(dist, "all_reduce", own_alone)
        undo_slices = replace(train.reduction, "_add_chunks", lambda received_N, n: received_N.chunk(n)[0].clone())
        return lambda: (undo_pairs(), undo_slices())[0]

    in_step(WRONG_STEP, drop)


class Done:
    """A collective that has ended."""

    def wait(self) -> None:
        """It has."""


@pytest.mark.parametrize("num_processes", [2, 4])
def test_a_half_reduced_gradient_is_seen(num_processes: int, corpus: Path, true: Path, tmp_path: Path) -> None:
    codes = run_job_at((num_processes, 1), corpus, tmp_path / "run", {}, drop_the_other_processes)
    assert codes == [0] * num_processes
    step, fields = first_difference(tmp_path / "run", true)
    assert step == WRONG_STEP
    assert fields >= {"gradient_norm"}


class LeftFold(train.reduction.TreeSum):
    """Adds in the order in which lists come: the sum of a plain loop."""

    def push(self, tensors: list[torch.Tensor]) -> None:
        if self._levels and self._levels[0] is not None:
            torch._foreach_add_(self._levels[0], tensors)
        else:
            self._levels = [tensors]


def left_fold() -> Callable[[], None]:
    restore_push = replace(train.reduction.TreeSum, "push", LeftFold.push)
    # Pairs that the backward pass has added would leave two lists, and two have one order only.
    ExactGradients._adds_pairs = property(lambda _: False)  # type: ignore[assignment]

    def undo() -> None:
        del ExactGradients._adds_pairs
        restore_push()

    return undo


def swapped_replicas() -> Callable[[], None]:
    """The gradients of parts 1 and 2 change places: (0 + 2) + (1 + 3) instead of (0 + 1) + (2 + 3)."""
    return replace(train.gradients, "own_replicas", lambda layout, count: [0, 2, 1, 3])


def dropped_replica() -> Callable[[], None]:
    """Part 2 adds nothing, though its loss is counted."""
    run = Passes.run

    def run_without(self: Passes, batch: StepBatch, places: slice, replica: int, scale: float) -> torch.Tensor:
        return run(self, batch, places, replica, 0.0 if replica == 2 else scale)

    return replace(Passes, "run", run_without)


@pytest.mark.parametrize("wrong", [left_fold, swapped_replicas, dropped_replica])
def test_a_sum_in_another_order_or_without_a_part_is_seen(
    corpus: Path, true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[], Any]
) -> None:
    """Same batch, same loss: only the weights and, where rounding shows it, the norm can tell."""
    monkeypatch.setattr(ExactGradients, "compute", ExactGradients.compute)
    in_step(WRONG_STEP, wrong)
    run_dir = small_jobs.run_small(corpus, tmp_path / "run")
    step, fields = first_difference(run_dir, true)
    assert step == WRONG_STEP
    assert "parameter_checksum" in fields
    assert fields <= WEIGHTS_FIELDS


def test_the_harness_of_these_controls_changes_nothing_itself(
    corpus: Path, true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExactGradients, "compute", ExactGradients.compute)
    in_step(WRONG_STEP, lambda: lambda: None)
    assert differing(small_jobs.run_small(corpus, tmp_path / "run"), true) == []


def test_one_changed_token_is_seen(corpus: Path, true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_with_one_wrong(windows: Any, order: Any, step: int) -> StepBatch:
        batch = read_batch(windows, order, step)
        if step != WRONG_STEP:
            return batch
        ids = np.array(batch.ids)
        ids[1, 5] = ids[1, 5] - 1 if ids[1, 5] else 1
        return StepBatch(batch.step, batch.draws, ids, batch.mask)

    monkeypatch.setattr(train.loop, "read_batch", read_with_one_wrong)
    step, fields = first_difference(small_jobs.run_small(corpus, tmp_path / "run"), true)
    assert step == WRONG_STEP
    assert fields == {"token_digest", "loss", *WEIGHTS_FIELDS}


def test_other_random_draws_in_a_step_are_seen(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout seeded otherwise in one step: the same tokens, another loss."""
    true = small_jobs.run_small(corpus, tmp_path / "true", model=tiny_runs.OLMO3)
    derive_seed = train.gradients.derive_seed

    def other_seed(seed: int, *parts: Any) -> int:
        return derive_seed(seed, *parts) + (parts[:2] == ("step", WRONG_STEP))

    monkeypatch.setattr(train.gradients, "derive_seed", other_seed)
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", model=tiny_runs.OLMO3)
    assert first_difference(run_dir, true) == (WRONG_STEP, {"loss", *WEIGHTS_FIELDS})


def test_another_seed_is_seen_from_the_first_step_on(corpus: Path, true: Path, tmp_path: Path) -> None:
    step, fields = first_difference(small_jobs.run_small(corpus, tmp_path / "run", seed=8), true)
    assert step == 1
    assert fields >= {"order_digest", "token_digest", "loss", *WEIGHTS_FIELDS}


# ---- steps that are left out ----------------------------------------------------------------------------------------

SKIPPING: dict[str, Any] = {"skip_steps": [[2, 2], [4, 5]]}


@pytest.fixture(scope="module")
def skipping(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("skipping") / "run", **SKIPPING)


def test_left_out_steps_have_one_record_and_read_nothing(
    corpus: Path, skipping: Path, true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def read_and_note(windows: Any, order: Any, step: int) -> StepBatch:
        read.append(step)
        return read_batch(windows, order, step)

    monkeypatch.setattr(train.loop, "read_batch", read_and_note)
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", **SKIPPING)
    assert read == [1, 3, 6]
    assert differing(run_dir, skipping) == []
    places = [(record["kind"], record.get("step", record.get("first"))) for record in records(run_dir)]
    # Neither the checkpoints of steps 2 and 4 nor anything else that falls on steps left out.
    assert places == [
        *[("start", None), ("evaluation", 0), ("checkpoint", 0), ("step", 1), ("checkpoint", 1), ("skip", 2)],
        *[("step", 3), ("evaluation", 3), ("skip", 4), ("step", 6), ("evaluation", 6), ("checkpoint", 6), ("end", 6)],
    ]
    orders = {record["step"]: record["order_digest"] for record in records(true, "step")}
    assert all(record["order_digest"] == orders[record["step"]] for record in records(run_dir, "step"))


def die_in_the_second_stretch(run_dir: Path) -> None:
    """Right after its record was written."""
    append = LedgerQueue.append

    def append_and_die(self: LedgerQueue, record: dict[str, Any]) -> None:
        append(self, record)
        if record["kind"] == "skip" and record["first"] == 4:
            die()

    LedgerQueue.append = append_and_die  # type: ignore[method-assign]


def test_left_out_steps_are_the_same_after_a_kill_among_them_and_at_two_processes(
    corpus: Path, skipping: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert run_job_at((1, 1), corpus, run_dir, SKIPPING, die_in_the_second_stretch) == [-9]
    assert not run_here(small_job(corpus, run_dir, small_config(**SKIPPING)), small_jobs.stop_after(run_dir, 3))
    assert run_job_at((2, 2), corpus, run_dir, SKIPPING) == [0, 0]
    assert differing(run_dir, skipping) == []


def test_left_out_steps_replay(corpus: Path, tmp_path: Path) -> None:
    changes = {"skip_steps": [[3, 3], [5, 5]]}
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", **changes)
    start = run_dir / "checkpoints" / "step-00000002"
    job = small_job(corpus, tmp_path / "replay", small_config(**changes), replay_from=str(start))
    assert run_here(job)
    replayed = (tmp_path / "replay" / "ledger.jsonl").read_bytes()
    assert replayed in (run_dir / "ledger.jsonl").read_bytes()
    assert [record["first"] for record in records(run_dir, "skip")] == [3, 5]
    assert replayed.count(b'"kind":"skip"') == 2
    assert replayed.count(b'"kind":"step"') == 2
    assert not (tmp_path / "replay" / "checkpoints").exists()


def test_a_replay_can_keep_the_checkpoints_that_it_comes_by(corpus: Path, tmp_path: Path) -> None:
    checkpoints = {"weights_until_step": 1, "full_every_steps": 2, "keep_last_full": 1, "published_full_steps": [2]}
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", checkpoints={**checkpoints, "weights_every_steps": 3})
    config = small_config(checkpoints={**checkpoints, "weights_every_steps": 3})
    start = str(run_dir / "checkpoints" / "step-00000002")
    assert run_here(small_job(corpus, tmp_path / "replay", config, replay_from=start, keep_checkpoints=True))
    assert (tmp_path / "replay" / "ledger.jsonl").read_bytes() in (run_dir / "ledger.jsonl").read_bytes()
    kept = sorted(path.name for path in (tmp_path / "replay" / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000004", "step-00000006"]
    names = (
        "step-00000003/model.safetensors",
        "step-00000006/model.safetensors",
        "step-00000006/optimizer.safetensors",
    )
    for name in names:
        replayed, recorded = (path / "checkpoints" / name for path in (tmp_path / "replay", run_dir))
        assert (name, replayed.read_bytes()) == (name, recorded.read_bytes())
