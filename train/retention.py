"""Which checkpoints a run makes, and which of them it keeps.

Nothing here needs torch or the models of configs: the process that writes checkpoints removes those that are not kept.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.durability import sync_path
from train.checkpoint_records import (
    OPTIMIZER_STEM,
    RECORD,
    CheckpointRecord,
    checkpoint_name,
    read_record,
    remove_checkpoint,
    requeue_name,
)

if TYPE_CHECKING:
    from train.settings import CheckpointConfig, RunConfig


@dataclass(frozen=True)
class Retention:
    """The rule of a recipe.

    Attributes:
        num_steps: the last step.
        full_every_steps: full checkpoints are due at its multiples and at the last step.
        weights_until_step: up to here weights are due at the powers of two, and at step 0.
        weights_every_steps: and at its multiples, if it is not 0.
        keep_last_full: full checkpoints kept of those before the last step; None for all.
        always_full: steps whose full checkpoints are kept as well.
    """

    num_steps: int
    full_every_steps: int
    weights_until_step: int
    weights_every_steps: int
    keep_last_full: int | None
    always_full: Sequence[int]

    @classmethod
    def of(cls, config: "RunConfig") -> "Retention":
        """The rule of a config."""
        settings = config.checkpoints
        return cls(
            num_steps=config.num_steps,
            full_every_steps=settings.full_every_steps,
            weights_until_step=settings.weights_until_step,
            weights_every_steps=settings.weights_every_steps,
            keep_last_full=settings.keep_last_full,
            always_full=[*settings.published_full_steps, *([config.branch.step] if config.branch else [])],
        )

    def kind_due(self, step: int) -> str | None:
        """Kind of the checkpoint made at a step: `weights`, `full`, or None."""
        if step and (step == self.num_steps or step % self.full_every_steps == 0):
            return "full"
        return "weights" if self.weights_due(step) else None

    def weights_due(self, step: int) -> bool:
        """Whether weights are due at a step, whether or not a full checkpoint is."""
        if step == 0 or (step <= self.weights_until_step and step & (step - 1) == 0):
            return True
        return self.weights_every_steps > 0 and step % self.weights_every_steps == 0


def remove_old_checkpoints(directory: Path, retention: Retention) -> None:
    """Apply retention: older full checkpoints go, or keep their weights only; safe to repeat after a crash.

    Checkpoints made for a requeue go as soon as a full one of the schedule is as new. The record is changed before the
    optimizer's files go, so that a kill in between leaves a whole weights checkpoint with files that the next call
    removes.

    Args:
        directory: where a run's checkpoints lie.
    """
    kept = {read_record(path).step: path for path in directory.glob(checkpoint_name(0)[:5] + "*")}
    full = [step for step, path in sorted(kept.items()) if read_record(path).kind == "full"]
    for path in directory.glob(requeue_name("*")):
        if full and read_record(path).step <= full[-1]:
            remove_checkpoint(path)
    if retention.keep_last_full is None:
        return
    for step in [step for step in full if step < retention.num_steps][: -retention.keep_last_full]:
        if step in retention.always_full:
            continue
        if retention.weights_due(step):
            _keep_weights_only(kept[step])
        else:
            remove_checkpoint(kept[step])
    for step, path in kept.items():
        if step not in full or retention.weights_due(step):
            _remove_optimizer_of_weights(path)


def _keep_weights_only(directory: Path) -> None:
    """Make a full checkpoint one of kind `weights`; its new record takes the place of the old one at once."""
    record = read_record(directory)
    work = directory.with_name(f".{directory.name}.tmp")
    work.mkdir()
    CheckpointRecord("weights", record.step, record.weights_digest, None, record.ledger).save(work)
    os.replace(work / RECORD, directory / RECORD)
    sync_path(directory)
    work.rmdir()


def _remove_optimizer_of_weights(directory: Path) -> None:
    if directory.is_dir() and read_record(directory).kind == "weights":
        for path in directory.glob(f"{OPTIMIZER_STEM}*.safetensors*"):
            path.unlink()


@dataclass(frozen=True)
class CheckpointPlan:
    """Checkpoints that a finished run keeps, and their bytes.

    Attributes:
        weights_steps: steps whose checkpoint holds weights only.
        full_steps: steps whose checkpoint also holds the optimizer.
        weights_bytes: one checkpoint of weights, in fp32.
        full_bytes: one full checkpoint.
    """

    weights_steps: tuple[int, ...]
    full_steps: tuple[int, ...]
    weights_bytes: int
    full_bytes: int

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of both kinds, in order."""
        return tuple(sorted((*self.weights_steps, *self.full_steps)))

    @property
    def total_bytes(self) -> int:
        """Bytes kept in all."""
        return len(self.weights_steps) * self.weights_bytes + len(self.full_steps) * self.full_bytes


def kept_checkpoints(config: "RunConfig", weights_bytes: int, full_bytes: int) -> CheckpointPlan:
    """Which checkpoints the schedule and the retention of a config leave, given the sizes of the two kinds.

    A branch makes none before the step with whose checkpoint it begins, and none falls on a step that is left out.
    """
    settings, last = config.checkpoints, config.num_steps
    first = config.branch.step if config.branch else 0
    every = range(settings.full_every_steps, last, settings.full_every_steps)
    made = [step for step in every if step > first and not config.is_skipped(step)]
    kept = {last, first} - {0} | {step for step in made if step in settings.published_full_steps}
    kept |= set(made if settings.keep_last_full is None else made[-settings.keep_last_full :])
    weights = {step for step in _weights_steps(settings, last) if step >= first and not config.is_skipped(step)}
    return CheckpointPlan(tuple(sorted(weights - kept)), tuple(sorted(kept)), weights_bytes, full_bytes)


def _weights_steps(settings: "CheckpointConfig", last: int) -> Iterator[int]:
    yield 0
    step = 1
    while step <= min(settings.weights_until_step, last - 1):
        yield step
        step *= 2
    if settings.weights_every_steps:
        yield from range(settings.weights_every_steps, last, settings.weights_every_steps)
