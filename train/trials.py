"""Trials: some steps of a run again, honestly and with the last step changed.

The program is `provenance.program train.trials REQUEST FOUND`.

How far the honest steps end from the recorded checkpoint is the noise of this platform; how far a changed step ends
from the honest one is what a forger's change amounts to. The change is made in the last step, where it has had the
least time to grow. One process runs all logical replicas: under `reduction: exact` its bits are those of any layout.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_recipes.order import Draw, Order
from data_recipes.order_file import ORDER_FILE
from data_recipes.pools import WindowPools
from data_recipes.windows import Mask, TokenIds
from provenance.canonical import Json, hex_float, read_json, write_json
from provenance.environment import platform_record
from provenance.errors import ConfigError, TrainingError
from train.checkpoint import MODEL_STEM, optimizer_parts, restore_checkpoint
from train.checkpoint_records import OPTIMIZER_STEM, read_record
from train.distances import Arrays, StoredArrays, distance_between
from train.job import TrainingJob
from train.layout import Layout, World, make_layout
from train.loop import TrainingRun
from train.optimizers import Optimizer
from train.state import state_digest
from train.trial_request import TRIAL_FORMAT, Stretch, TrialRequest
from train.worker import be_deterministic, leave, need_process_group

LEARNING_RATE_FACTOR = 1.0001


class ChangedWindows(WindowPools):
    """The windows of a run with one change in the first window that is read.

    Args:
        change: `token` replaces the window's last trained token, which is a target and never an input: the least that
            one token can do. `window` reads the next window of the same pool instead.
    """

    def __init__(self, run: TrainingRun, change: str) -> None:
        super().__init__(Path(run.job.corpus), run.config.data.split, run.config.window_lengths)
        self._change = change

    def read_draws(self, order: Order, draws: Any) -> tuple[TokenIds, Mask]:
        """Read the draws of a step, changed."""
        first: Draw = draws[0]
        if self._change == "window":
            following = (first.window + 1) % self.pools[first.source].num_windows
            return super().read_draws(order, [replace(first, window=following), *draws[1:]])
        ids, mask = super().read_draws(order, draws)
        ids = ids.copy()
        place = int(mask[0].nonzero()[0][-1])
        ids[0, place] = (int(ids[0, place]) + 1) % self.vocab_size
        return ids, mask


@dataclass(frozen=True)
class ScaledRate:
    """An optimizer that is told a slightly larger learning rate."""

    optimizer: Optimizer

    def step(self, gradients: Any, learning_rate: float) -> None:
        """Update with the larger rate."""
        self.optimizer.step(gradients, learning_rate * LEARNING_RATE_FACTOR)

    def state(self) -> Any:
        """Return the optimizer's state."""
        return self.optimizer.state()

    def load(self, tensors: Any, num_steps_done: int) -> None:
        """Put the optimizer's state back."""
        self.optimizer.load(tensors, num_steps_done)


@dataclass(frozen=True)
class State:
    """A state of a run: whole tensors by name."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    num_updates: int

    @classmethod
    def of(cls, run: TrainingRun) -> "State":
        """Copy the state of a run on one process."""
        optimizer = {part.name: part.tensor.clone() for part in optimizer_parts(run.optimizer, run.num_updates)}
        return cls({part.name: part.tensor.clone() for part in run.weights}, optimizer, run.num_updates)

    def put_back(self, run: TrainingRun) -> None:
        """Bring a run to this state."""
        for part in run.weights:
            part.tensor.copy_(self.weights[part.name])
        run.optimizer.load(self.optimizer, self.num_updates)
        run.num_updates = self.num_updates

    def without_optimizer(self) -> "State":
        """The same weights with an optimizer that has made no update yet."""
        return State(self.weights, {name: torch.zeros_like(t) for name, t in self.optimizer.items()}, 0)


def run_changed(run: TrainingRun, before: State, step: int, change: str) -> State:
    """Run one step with something changed; returns the state after it.

    Args:
        before: the state before the step.
        change: `token` or `window` (`ChangedWindows`), `learning_rate` (times 1.0001), `optimizer` (state dropped).
    """
    windows, optimizer = run.windows, run.optimizer
    (before.without_optimizer() if change == "optimizer" else before).put_back(run)
    if change in ("token", "window"):
        run.windows = ChangedWindows(run, change)
    if change == "learning_rate":
        run.optimizer = ScaledRate(optimizer)
    try:
        run.train_step(step)
    finally:
        run.windows, run.optimizer = windows, optimizer
    return State.of(run)


def steps_of(run: TrainingRun, first: int, last: int) -> list[int]:
    """The steps of a stretch that the recipe does not leave out.

    Raises:
        ConfigError: when the last one is left out, or before the first.
    """
    steps = [step for step in range(first, last + 1) if not run.config.is_skipped(step)]
    if not steps or steps[-1] != last:
        raise ConfigError(f"a trial of steps {first} to {last}", expected="a last step that the recipe does not skip")
    return steps


def measure(request: TrialRequest, layout: Layout, run_dir: Path) -> dict[str, Json]:
    """Run the stretches and every change; returns the report (`openwright-trial/1`).

    Raises:
        ArtifactError: when a checkpoint is not the one that its record names.
    """
    run = TrainingRun(_job(request, run_dir), layout)
    stretches = [_run_stretch(run, stretch, request.changes) for stretch in request.stretches]
    return {"format": TRIAL_FORMAT, "platform": platform_record(), "stretches": stretches}


def _run_stretch(run: TrainingRun, stretch: Stretch, changes: list[str]) -> dict[str, Json]:
    State.of(run).without_optimizer().put_back(run)  # the checkpoint of step 0 brings no optimizer state of its own
    start, run.num_updates = restore_checkpoint(Path(stretch.from_checkpoint), run.weights, run.optimizer, run.layout)
    *earlier, last = steps_of(run, start.step + 1, stretch.last_step)
    numbers = {step: run.train_step(step) for step in earlier}
    before = State.of(run)
    numbers[last] = run.train_step(last)
    honest = State.of(run)
    changed = {change: run_changed(run, before, last, change) for change in changes}
    return {
        "first_step": start.step + 1,
        "last_step": last,
        "weights_digest": state_digest(honest.weights),
        **_from_reference(Path(stretch.reference), honest),
        "steps": [
            {"step": step, **{name: hex_float(value) for name, value in found.items()}}
            for step, found in numbers.items()
        ],
        "changes": {
            change: distance_between(_arrays(state.weights), _arrays(honest.weights)).as_json()
            for change, state in changed.items()
        },
    }


def _job(request: TrialRequest, run_dir: Path) -> TrainingJob:
    return TrainingJob(
        stage=request.stage,
        recipe=read_json(Path(request.recipe)),
        execution={},
        corpus=request.corpus,
        run_dir=str(run_dir),
        base_checkpoint=request.base_checkpoint,
        parents=(),
        branch_from="",
        replay_from=request.stretches[0].from_checkpoint,
        last_step=max(stretch.last_step for stretch in request.stretches),
        order_file=str(Path(request.recipe).with_name(ORDER_FILE)),
    )


def _arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _from_reference(reference: Path, honest: State) -> dict[str, Json]:
    """Distances of the honest state from a recorded checkpoint: its weights, and its optimizer where it is full."""
    weights = distance_between(_arrays(honest.weights), StoredArrays(reference, MODEL_STEM)).as_json()
    if read_record(reference).kind != "full":
        return {"weights": weights, "optimizer": None}
    optimizer = distance_between(_arrays(honest.optimizer), StoredArrays(reference, OPTIMIZER_STEM)).as_json()
    return {"weights": weights, "optimizer": optimizer}


def main() -> None:
    """Run the trial that the first argument names and write what was found to the second."""
    asked = read_json(Path(sys.argv[1]))
    if asked.get("format") != TRIAL_FORMAT:
        raise TrainingError(f"a trial of format {asked.get('format')!r}", expected=TRIAL_FORMAT)
    stretches = [Stretch(**stretch) for stretch in asked["stretches"]]
    request = TrialRequest(**{**asked, "stretches": stretches})
    be_deterministic(request.num_threads)
    world = World()
    need_process_group(world)
    with tempfile.TemporaryDirectory(prefix="openwright-trial-run-") as run_dir:
        write_json(Path(sys.argv[2]), measure(request, make_layout(world, 1), Path(run_dir)))
    leave()
