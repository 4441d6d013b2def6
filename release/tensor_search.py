"""Naming the tensor of a divergence: checkpoints that the replay kept, compared with those of the recorded run."""

from pathlib import Path

from provenance.canonical import read_json
from provenance.errors import OpenwrightError
from release.divergence import Divergence
from release.tensor_diff import compare_checkpoints


def checkpoint_from(directory: Path, first: int, last: int) -> tuple[int, Path] | None:
    """The earliest checkpoint within these steps, of any kind; None where there is none.

    Args:
        directory: directory of the checkpoints of a run.
    """
    steps = {int(read_json(path / "checkpoint.json")["step"]): path for path in directory.glob("step-*")}
    within = [step for step in steps if first <= step <= last]
    return (min(within), steps[min(within)]) if within else None


def name_tensor(divergence: Divergence, recorded: Path, replayed: Path, last_step: int) -> Divergence:
    """Add the first differing tensor to a divergence, or why it cannot be named.

    Args:
        recorded: directory of the checkpoints of the recorded run.
        replayed: directory of those that the replay kept.
        last_step: last step that was replayed.
    """
    if not divergence.is_numeric:
        return divergence
    found = checkpoint_from(recorded, divergence.step, last_step)
    if found is None:
        told = f"the recorded run keeps no checkpoint of the steps {divergence.step} to {last_step}"
        return divergence.with_tensors(None, f"{told}: only the step can be named")
    step, path = found
    if not (replayed / path.name).is_dir():
        told = f"the replay kept no checkpoint of step {step}, as the bundle's code orders it"
        return divergence.with_tensors(None, f"{told}: only the step can be named")
    try:
        return divergence.with_tensors(compare_checkpoints(path, replayed / path.name, step))
    except OpenwrightError as error:
        return divergence.with_tensors(None, f"only the step can be named: {error.found}")
