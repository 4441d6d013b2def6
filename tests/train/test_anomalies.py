"""Steps that go wrong: gradients that are not numbers and losses that jump, recorded with what was read."""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
from small_jobs import differing, records, run_here, small_config, small_job

from provenance.errors import TrainingError
from train.anomalies import LossWatch
from train.batch import StepBatch
from train.gradients import Passes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("straight") / "run")


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    run = Passes.run

    def run_poisoned(self: Passes, batch: StepBatch, places: slice, replica: int, scale: float) -> torch.Tensor:
        bad = batch.step == step and replica == 2
        return run(self, batch, places, replica, float("nan") if bad else scale)

    monkeypatch.setattr(Passes, "run", run_poisoned)


def test_a_gradient_that_is_not_a_number_stops_with_its_windows(
    corpus: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    job = small_job(corpus, run_dir, small_config())
    with monkeypatch.context() as patched:
        poison(patched, 3)
        with pytest.raises(TrainingError, match="infinite or not a number") as stopped:
            run_here(job)
    assert "step 3" in stopped.value.where
    assert "alpha" in stopped.value.where
    assert f"openwright branch {run_dir} --at STEP --skip 3:3" in stopped.value.next_command
    (note,) = records(run_dir, "anomaly", "journal.jsonl")
    assert (note["step"], note["loss"]) == (3, None)
    assert len(note["windows"]) == 4
    for slot, window in enumerate(note["windows"]):
        first, last = window["documents"]
        assert window["slot"] == slot
        assert window["source"] in ("alpha", "beta")
        assert 0 <= first <= last
    assert [record["step"] for record in records(run_dir, "step")][-1] == 2
    assert run_here(job)
    assert differing(run_dir, straight) == []


LONG: dict[str, Any] = {
    "phases": [{"num_steps": 20, "sequences_per_step": 4}],
    "checkpoints": {"weights_until_step": 1, "full_every_steps": 10},
}


def spike(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the loss of one step five times what it is."""
    loss, run = Passes.loss, Passes.run
    now = [0]

    def remember(self: Passes, batch: StepBatch, *others: Any) -> torch.Tensor:
        now[0] = batch.step
        return run(self, batch, *others)

    def loss_or_spike(self: Passes, sums_R: torch.Tensor, num_trained: int) -> float:
        return loss(self, sums_R, num_trained) * (5.0 if now[0] == step else 1.0)

    monkeypatch.setattr(Passes, "run", remember)
    monkeypatch.setattr(Passes, "loss", loss_or_spike)


def test_a_loss_spike_is_recorded_and_the_run_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spike(monkeypatch, 18)
    run_dir = small_jobs.run_small(corpus, tmp_path / "run", **LONG)
    (note,) = records(run_dir, "anomaly", "journal.jsonl")
    assert (note["anomaly"], note["step"]) == ("a loss spike", 18)
    assert note["loss"] == records(run_dir, "step")[17]["loss"]
    assert len(note["windows"]) == 4


def test_a_loss_spike_stops_where_asked_and_again_after_a_restart(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses before the resume count, too: a second try does not slip through."""
    spike(monkeypatch, 18)
    run_dir = tmp_path / "run"
    config = small_config(**LONG, execution={"on_loss_spike": "stop"})
    for _ in range(2):
        with pytest.raises(TrainingError, match="a loss spike") as stopped:
            run_here(small_job(corpus, run_dir, config))
        assert "step 18" in stopped.value.where
        assert "--skip 18:18" in stopped.value.next_command
    assert len(records(run_dir, "anomaly", "journal.jsonl")) == 2


def test_a_spike_is_judged_by_the_median_of_enough_steps() -> None:
    watch = LossWatch(2.0)
    assert not any(watch.is_spike(loss) for loss in [1.0, 100.0] + [1.0] * 14)
    assert not watch.is_spike(1.99)
    assert watch.is_spike(2.01)
