"""Which steps of a bundle are replayed: given ones, or random segments between neighbouring checkpoints."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from provenance.canonical import read_json
from provenance.errors import BundleError, ConfigError
from provenance.ledger import read_chain


@dataclass(frozen=True)
class Segment:
    """Steps `first..last` of a stage, replayed from a checkpoint at an earlier step."""

    stage: str
    checkpoint: Path
    first: int
    last: int


def training_stages(bundle: Path) -> list[str]:
    """Names of the bundle's training stages, in the order in which they ran."""
    manifest = read_json(bundle / "model" / "manifest.json")
    names = [str(entry["stage"]) for entry in manifest["stages"]]
    return [name for name in names if (bundle / "model" / "training" / name / "ledger.jsonl").is_file()]


def resumable_checkpoints(bundle: Path, stage: str) -> dict[int, Path]:
    """Checkpoints by step from which a replay can start: full ones and that of step 0."""
    found = {}
    for path in sorted((bundle / "model" / "checkpoints" / stage).glob("step-*")):
        record = read_json(path / "checkpoint.json")
        if record.get("kind") == "full" or record.get("step") == 0:
            found[int(record["step"])] = path
    return found


def segment_of_steps(bundle: Path, stage: str, first: int, last: int) -> Segment:
    """The given steps of a stage, from the last checkpoint before them.

    Raises:
        ConfigError: for steps or a stage that the bundle does not have.
        BundleError: when no checkpoint before them is kept.
    """
    if stage not in training_stages(bundle):
        raise ConfigError(f"--stage {stage}", expected=f"one of {training_stages(bundle)}", where=str(bundle))
    num_steps, begin = _num_steps(bundle, stage), _first_step(bundle, stage)
    if not begin < first <= last <= num_steps:
        expected = f"steps within {begin + 1}:{num_steps} of {stage}"
        raise ConfigError(f"--step {first}:{last}", expected=expected, where=str(bundle))
    before = {step: path for step, path in resumable_checkpoints(bundle, stage).items() if step < first}
    if not before:
        raise BundleError(f"no checkpoint before step {first} of {stage}", where=str(bundle))
    return Segment(stage, before[max(before)], max(before) + 1, last)


def draw_segments(bundle: Path, stage: str | None, count: int, seed: int) -> tuple[list[Segment], int]:
    """Choose segments between neighbouring checkpoints; returns them with the number there are."""
    every = []
    for name in [stage] if stage else training_stages(bundle):
        if name not in training_stages(bundle):
            raise ConfigError(f"--stage {name}", expected=f"one of {training_stages(bundle)}", where=str(bundle))
        checkpoints = resumable_checkpoints(bundle, name)
        places = [*sorted(checkpoints), _num_steps(bundle, name)]
        every += [Segment(name, checkpoints[start], start + 1, end) for start, end in pairwise(places) if start < end]
    if not every:
        raise BundleError("no segment can be replayed", expected="checkpoints with optimizer state", where=str(bundle))
    chosen = Random(seed).sample(every, min(count, len(every)))
    return chosen, len(every)


def _num_steps(bundle: Path, stage: str) -> int:
    return int(read_json(bundle / "model" / "training" / stage / "run.json")["num_steps"])


def _first_step(bundle: Path, stage: str) -> int:
    """Step at whose state the recorded run begins: 0, or that at which it went on from another run."""
    branch = next(read_chain(bundle / "model" / "training" / stage / "ledger.jsonl")).get("branch")
    return int(branch["step"]) if branch else 0
