"""A replay on another platform than the recorded one, judged by the distance of its weights from the recorded ones.

What is judged ends at a recorded checkpoint, on a platform that the publisher measured, over no more steps than were
measured. All else is UNVERIFIED, with the distance where there is one. Losses alone never pass anything: they are
compared besides, so that a ledger of other losses does not pass with honest weights.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provenance.canonical import parse_hex_float, parse_json, read_json
from provenance.errors import OpenwrightError
from provenance.ledger import read_chain
from release.comparison import Judgement, is_within
from release.divergence import Divergence
from release.replay_layout import reduction
from release.replay_segments import Segment
from release.tolerance import (
    CHANGES,
    FACTOR,
    GRADIENT_NORM,
    LOSS,
    MEASURES,
    OPTIMIZER_TENSOR,
    SMALLEST_CHANGE,
    TOLERANCE_NAME,
    WEIGHTS,
    WEIGHTS_TENSOR,
    ChangeName,
    MeasuredPlatform,
    Stretch,
    Tolerance,
    platform_digest,
    problems,
    read_tolerance,
    relative_difference,
)
from release.weights import weights_digest
from train.checkpoint_records import OPTIMIZER_STEM, checkpoint_name
from train.distances import StoredArrays, distance_between

_NUMERIC = {
    *("previous", "loss", "gradient_norm", "parameter_checksum", "router"),
    *("weights_digest", "state_digest", "bits_per_byte"),
}
"""Fields of the ledger that another platform may give otherwise."""

CHANGE_NAMES: dict[ChangeName, str] = {
    "learning_rate": "a learning rate times 1.0001",
    "optimizer": "a dropped optimizer state",
    "token": "one changed token",
    "window": "one swapped window",
}
"""What each change of a single step is called."""

Record = dict[str, Any]


def judge(bundle: Path, segment: Segment, output: Path, divergence: Divergence) -> Judgement:
    """Judge a replay whose records differ from the recorded ones because of the environment.

    Args:
        output: directory of the replay, with the checkpoints that it kept.
        divergence: the first difference; its cause is `environment`.
    """
    try:
        return _judge(bundle, segment, output, divergence)
    except OpenwrightError as error:
        return Judgement("UNVERIFIED", f"it cannot be judged: {error.found}")
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        return Judgement("UNVERIFIED", f"it cannot be judged: malformed ({type(error).__name__}: {error})"[:200])


def _judge(bundle: Path, segment: Segment, output: Path, divergence: Divergence) -> Judgement:
    recorded, replayed = _records(bundle, segment, output)
    other = _other_than_numerics(recorded, replayed)
    if other:
        return Judgement("FAIL", f"another platform does not explain that {other}")
    here, end = bundle / "model" / "checkpoints" / segment.stage, checkpoint_name(segment.last)
    if not (here / end / "checkpoint.json").is_file():
        return Judgement("UNVERIFIED", f"no checkpoint is recorded at step {segment.last} to compare weights with")
    if not (output / "checkpoints" / end).is_dir():
        return Judgement("UNVERIFIED", f"the replay kept no checkpoint of step {segment.last}")
    problem = _checkpoint_problem(here / end, recorded, segment.last)
    if problem:
        return Judgement("FAIL", problem)
    distances, farthest = _distances(here / end, output / "checkpoints" / end)
    distances |= _ledger_differences(recorded, replayed)
    verdict, reason = _verdict(bundle, segment, output, divergence, distances, recorded)
    return Judgement(verdict, reason, distances, _told(distances, farthest))


def _records(bundle: Path, segment: Segment, output: Path) -> tuple[list[Record], list[Record]]:
    """Recorded and replayed records of a segment."""
    path = bundle / "model" / "training" / segment.stage / "ledger.jsonl"
    start = int(read_json(segment.checkpoint / "checkpoint.json")["ledger"]["num_records"])
    told = [parse_json(line, str(path)) for line in path.read_bytes().splitlines()[start:]]
    found = [parse_json(line, "replay") for line in (output / "ledger.jsonl").read_bytes().splitlines()]
    return [record for record in told if is_within(record, segment.last)], found


def _other_than_numerics(recorded: Sequence[Record], replayed: Sequence[Record]) -> str:
    """The first thing in any record that does not follow from numerics, or nothing."""
    for told, found in zip(recorded, replayed, strict=False):
        for name in sorted({*told, *found} - _NUMERIC):
            if told.get(name) != found.get(name):
                return f"{name} of the record of step {told.get('step', told.get('first'))} differs"
        if set(told) != set(found):
            return f"the record of step {told.get('step')} has other fields"
    if len(recorded) != len(replayed):
        return f"the replay gave {len(replayed)} records and the ledger holds {len(recorded)}"
    return ""


def _checkpoint_problem(directory: Path, recorded: Sequence[Record], step: int) -> str:
    """Whether the tensors at the end are those that the ledger records."""
    expected = [r["weights_digest"] for r in recorded if r["kind"] == "checkpoint" and r["step"] == step]
    found = weights_digest(sorted(directory.glob("model*.safetensors")))
    if expected != [found]:
        return f"the recorded checkpoint of step {step} does not hold the weights that the ledger records"
    return ""


def _distances(recorded: Path, replayed: Path) -> tuple[dict[str, float], str]:
    """Distances of weights and, where both hold one, of the optimizer; and the farthest tensor of the weights."""
    weights = distance_between(StoredArrays(replayed, "model"), StoredArrays(recorded, "model"))
    found = {WEIGHTS: weights.overall, WEIGHTS_TENSOR: weights.largest}
    pair = [StoredArrays(path, OPTIMIZER_STEM) for path in (replayed, recorded)]
    if all(len(arrays) for arrays in pair):
        found[OPTIMIZER_TENSOR] = distance_between(*pair).largest
    farthest = max(weights.tensors, key=lambda name: (math.isnan(weights.tensors[name]), weights.tensors[name]))
    return found, farthest


def _told(distances: dict[str, float], farthest: str) -> str:
    weights = (
        f"the weights end {distances[WEIGHTS]:.2g} from the recorded ones (relative L2; farthest tensor {farthest}:"
    )
    parts = [f"{weights} {distances[WEIGHTS_TENSOR]:.2g})"]
    if OPTIMIZER_TENSOR in distances:
        parts.append(f"the farthest tensor of the optimizer {distances[OPTIMIZER_TENSOR]:.2g}")
    parts.append(f"losses {distances[LOSS]:.2g}, gradient norms {distances[GRADIENT_NORM]:.2g}")
    return ", ".join(parts)


def _ledger_differences(recorded: Sequence[Record], replayed: Sequence[Record]) -> dict[str, float]:
    """The largest relative difference of losses (held-out ones among them) and of gradient norms."""
    found = {LOSS: 0.0, GRADIENT_NORM: 0.0}
    names = {"loss": LOSS, "bits_per_byte": LOSS, "gradient_norm": GRADIENT_NORM}
    for told, other in zip(recorded, replayed, strict=True):
        for name in sorted(set(names) & set(told)):
            difference = relative_difference(told[name], other[name])
            worst = found[names[name]]
            found[names[name]] = difference if math.isnan(difference) or difference > worst else worst
    return found


def _verdict(
    bundle: Path,
    segment: Segment,
    output: Path,
    divergence: Divergence,
    distances: dict[str, float],
    recorded: Sequence[Record],
) -> tuple[str, str]:
    """Verdict and reason for distances."""
    folder = bundle / "model" / "training" / segment.stage
    if not (folder / TOLERANCE_NAME).is_file():
        return "UNVERIFIED", "no tolerance was measured for this release"
    tolerance = read_tolerance(folder / TOLERANCE_NAME)
    wrong = next(problems(tolerance), "")
    if wrong:
        return "UNVERIFIED", f"{TOLERANCE_NAME} contradicts itself ({wrong})"
    found = _measured_pair(bundle, segment, output, divergence, tolerance)
    if isinstance(found, str):
        return "UNVERIFIED", f"{found}: it is not judged"
    stretch = found.stretch_for(segment.first, segment.last)
    if stretch is None:
        return "UNVERIFIED", "so many steps from so early on were not measured: it is not judged"
    if not stretch.seen[SMALLEST_CHANGE]:
        told = f"through the noise that was measured between these platforms ({tolerance.precision},"
        told += f" steps {stretch.first_step} to {stretch.last_step})"
        return "UNVERIFIED", f"{told} one changed token would not be seen: nothing passes"
    rate = next(parse_hex_float(r["learning_rate"]) for r in reversed(recorded) if r["kind"] == "step")
    was_measured = stretch.first_step == segment.first and segment.last <= stretch.last_step
    return _compare(stretch, distances, rate, was_measured=was_measured)


def _compare(stretch: Stretch, distances: dict[str, float], rate: float, *, was_measured: bool) -> tuple[str, str]:
    """Verdict and reason; only steps that were measured themselves fail: others may be noisier without any forgery."""
    thresholds = {str(name): parse_hex_float(value) for name, value in stretch.thresholds.items()}
    missing = ", ".join(sorted(set(distances) - set(thresholds)))
    if missing:
        return "UNVERIFIED", f"no noise was measured for {missing}: it is not judged"
    beyond = [name for name in MEASURES if name in distances and not distances[name] <= thresholds[name]]
    limits = ", ".join(f"{name} {thresholds[name]:.2g}" for name in MEASURES if name in distances)
    whose = f"{FACTOR} times the noise that the publisher measured between these two platforms: {limits}"
    if beyond and not was_measured:
        near = f"steps {stretch.first_step} to {stretch.last_step}"
        told = f"beyond tolerance in {', '.join(beyond)} for {near}, the nearest that were measured; the thresholds are"
        return "UNVERIFIED", f"{told} {whose}; these steps may be noisier and were not measured: it is not judged"
    if beyond:
        return "FAIL", f"beyond tolerance in {', '.join(beyond)}; the thresholds are {whose}"
    if not stretch.sees(SMALLEST_CHANGE, rate):
        told = f"at the learning rate of the last step, {rate:.2g}, one changed token would not be seen"
        return "UNVERIFIED", f"within the thresholds, but {told}"
    changes: dict[bool, list[str]] = {True: [], False: []}
    for change in CHANGES:
        changes[stretch.sees(change, rate)].append(CHANGE_NAMES[change])
    hidden = f"; not seen: {', '.join(changes[False])}" if changes[False] else ""
    seen = f"by the publisher's figures it would show {', '.join(changes[True])} in the last step{hidden}"
    return "PASS", f"within tolerance, not bitwise; the thresholds are {whose}; {seen}"


def _measured_pair(
    bundle: Path, segment: Segment, output: Path, divergence: Divergence, tolerance: Tolerance
) -> MeasuredPlatform | str:
    """The measured platform that a replay ran on, or why there is none."""
    if reduction(bundle, segment.stage) != "exact":
        return "reduction native binds bits to a layout, whose noise was not measured"
    libraries = [d.field for d in divergence.environment if d.is_decisive and not d.field.startswith("platform.")]
    if libraries:
        return f"other libraries are installed than those that were measured with ({', '.join(libraries)})"
    folder = bundle / "model" / "training" / segment.stage
    if any(record["kind"] == "environment_change" for record in read_chain(folder / "journal.jsonl")):
        return "the run was recorded on more than one platform"
    told, here = (read_json(path / "environment.json")["platform"] for path in (folder, output))
    if tolerance.stage != segment.stage or platform_digest(told) != tolerance.recorded_platform["digest"]:
        return f"{TOLERANCE_NAME} was measured for another run or platform"
    for measured in tolerance.platforms:
        if measured.platform["digest"] == platform_digest(here):
            return "this platform gave equal bits when it was measured" if measured.equal_bits else measured
    return "this pair of platforms was not measured"
