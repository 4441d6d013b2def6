"""Mirrors of the ledger's numbers in TensorBoard, trackio or Weights & Biases, through accelerate.

A mirror is for looking at a run; it is written beside the run, never into its artifact, and nothing reads it back.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from provenance.errors import ConfigError

StepListener = Callable[[int, dict[str, float]], None]
"""Called after every step with its number and what was seen: loss, gradient norm, learning rate, tokens per second."""


def check_installed(trackers: Sequence[str]) -> None:
    """Refuse a tracker that is not installed: accelerate would leave it out in silence.

    Raises:
        ConfigError: naming the tracker.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"execution.trackers names {name}, which is not installed",
                expected="an installed tracker",
                next_command=f"pip install {name}, or leave it out",
            )


def tracker_dir(run_dir: Path) -> Path:
    """Where mirrors of a run lie."""
    return run_dir.parent / f"trackers-{run_dir.name.removeprefix('.work-')}"


def start_trackers(accelerator: Accelerator, stage: str, run_dir: Path) -> StepListener:
    """Begin the mirrors that the accelerator was made with; returns what is called after every step.

    A run that is resumed goes on in the mirror that it had before.
    """
    place = tracker_dir(run_dir)
    os.environ["TRACKIO_DIR"] = str(place)  # trackio takes its place from here only, and accelerate imports it below
    accelerator.init_trackers(f"openwright-{stage}", init_kwargs={"trackio": {"name": place.name, "resume": "allow"}})

    def log(step: int, numbers: dict[str, float]) -> None:
        accelerator.log(numbers, step=step)

    return log
