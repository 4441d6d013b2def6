"""`reduction: native`: torch's own DDP and FSDP2 at any number of processes.

It agrees with `exact` up to rounding, gives the same bits at the same layout, and promises no more: another layout was
seen to give other bits.
"""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
from safetensors.torch import load_file
from small_jobs import differing, records, run_job_at

from provenance.errors import StoppedForRequeue
from train.job import STOP_REQUEST
from train.loop import TrainingRun

CHANGES: dict[str, Any] = {
    "phases": [{"num_steps": 4, "sequences_per_step": 8}],
    "num_logical_replicas": 8,
    "checkpoints": {"weights_until_step": 1, "full_every_steps": 2},
}
NATIVE = {**CHANGES, "reduction": "native"}
LAYOUTS = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 3), (4, 2)]
LOSS_TOLERANCE = 1e-6
"""Relative. Losses near 6 summed in fp32 per window; found up to some 1e-8."""
WEIGHT_TOLERANCE = 2e-3
"""Absolute, against steps of 5e-3. AdamW divides by the root of the second moment: rounding of a gradient near nothing
changes its update by a good part of the step. Means differ by less than a hundredth of it."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def exact(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("exact") / "run", **CHANGES)


@pytest.fixture(scope="module")
def native(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """A run at each layout."""
    place = tmp_path_factory.mktemp("native")
    runs = {layout: place / "{}-{}".format(*layout) for layout in LAYOUTS}
    for layout, run_dir in runs.items():
        assert run_job_at(layout, corpus, run_dir, NATIVE) == [0] * layout[0]
    return runs


def losses(run_dir: Path) -> list[float]:
    return [float.fromhex(record["loss"]) for record in records(run_dir, "step")]


def weights(run_dir: Path) -> torch.Tensor:
    tensors = load_file(run_dir / "checkpoints" / "step-00000004" / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_native_agrees_with_exact_within_rounding(
    native: dict[tuple[int, int], Path], exact: Path, layout: tuple[int, int]
) -> None:
    assert losses(native[layout]) == pytest.approx(losses(exact), rel=LOSS_TOLERANCE)
    distance = (weights(native[layout]) - weights(exact)).abs()
    assert float(distance.max()) < WEIGHT_TOLERANCE
    assert float(distance.mean()) < WEIGHT_TOLERANCE / 100
    reads = [(record["order_digest"], record["token_digest"]) for record in records(native[layout], "step")]
    assert reads == [(record["order_digest"], record["token_digest"]) for record in records(exact, "step")]


def test_the_ledger_says_which_promise_holds(native: dict[tuple[int, int], Path], exact: Path) -> None:
    assert records(exact)[0]["reduction"] == "exact"
    for (size, shard_size), run_dir in native.items():
        assert records(run_dir)[0]["reduction"] == "native"
        start = records(run_dir, "start", "journal.jsonl")[0]
        assert (start["num_processes"], start["shard_size"]) == (size, shard_size)


def test_another_layout_gives_other_bits(native: dict[tuple[int, int], Path]) -> None:
    final = {layout: records(run_dir, "end")[0]["weights_digest"] for layout, run_dir in native.items()}
    assert len(set(final.values())) > 2
    assert final[(2, 1)] != final[(3, 1)]
    assert final[(3, 3)] != final[(2, 2)]


@pytest.mark.parametrize("layout", [(3, 1), (4, 2)])
def test_the_same_layout_gives_the_same_bits_after_a_stop_too(
    corpus: Path, native: dict[tuple[int, int], Path], tmp_path: Path, layout: tuple[int, int]
) -> None:
    run_dir = tmp_path / "run"
    assert set(run_job_at(layout, corpus, run_dir, NATIVE, ask_to_stop_after_step_3)) == {75}
    assert run_job_at(layout, corpus, run_dir, NATIVE) == [0] * layout[0]
    assert [record["step"] for record in records(run_dir, "resume", "journal.jsonl")] == [3]
    assert differing(run_dir, native[layout]) == []


def ask_to_stop_after_step_3(run_dir: Path) -> None:
    after_step = TrainingRun.after_step

    def then_ask(self: TrainingRun, step: int) -> None:
        after_step(self, step)
        if step == 3:
            (run_dir / STOP_REQUEST).touch()

    TrainingRun.after_step = then_ask  # type: ignore[method-assign]


def test_bf16_agrees_with_exact_within_its_rounding(corpus: Path, tmp_path: Path) -> None:
    bf16 = {"precision": "bf16"}
    assert run_job_at((1, 1), corpus, tmp_path / "exact", {**CHANGES, **bf16}) == [0]
    assert run_job_at((2, 2), corpus, tmp_path / "native", {**NATIVE, **bf16}) == [0, 0]
    assert losses(tmp_path / "native") == pytest.approx(losses(tmp_path / "exact"), rel=1e-3)


def test_the_run_prints_the_weaker_promise(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise StoppedForRequeue("not run")

    monkeypatch.setattr("train.jobs.launch", launch)
    artifact = tiny_runs.make_corpus(tmp_path)
    from train.jobs import pretrain

    for reduction, said in (("exact", False), ("native", True)):
        config = small_jobs.small_config(reduction=reduction, execution={"num_processes": 2})
        with pytest.raises(StoppedForRequeue):
            pretrain(config, tiny_runs.context(tmp_path), artifact)
        assert ("reduction: native" in capsys.readouterr().err) == said
