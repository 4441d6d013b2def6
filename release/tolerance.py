"""What is stored of the noise between platforms (`openwright-tolerance/1`), and what follows from it.

A publisher measures how far honest replays on other platforms end from the recorded weights, and how far a replay with
one small change ends from an honest one. Thresholds and what can be seen through them follow from these distances by
the rules below; `verify` derives them again. Whatever the file says, two bounds hold: a platform that cannot see one
changed token judges nothing, and no threshold on the weights is above `LARGEST_THRESHOLD`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from provenance.canonical import hex_float, parse_hex_float, read_json
from provenance.config import Config
from provenance.digests import tagged_digest
from provenance.errors import BundleError
from release.replay_report import Sha256

TOLERANCE_FORMAT = "openwright-tolerance/1"
TOLERANCE_NAME = "tolerance.json"
FACTOR = 8
"""Thresholds are so many times the noise that was measured."""

LARGEST_THRESHOLD = 1e-4
"""No overall distance of the weights above this is within any tolerance."""

WEIGHTS, WEIGHTS_TENSOR, OPTIMIZER_TENSOR = "weights", "weights_of_a_tensor", "optimizer_of_a_tensor"
LOSS, GRADIENT_NORM = "loss", "gradient_norm"
MEASURES = (WEIGHTS, WEIGHTS_TENSOR, OPTIMIZER_TENSOR, LOSS, GRADIENT_NORM)
FLOOR = 2.0**-24
"""Noise is taken to be at least this: half the spacing of fp32, where a few steps may happen to agree."""

POSITIVE = r"^0x1\.[0-9a-f]+p[+-][0-9]{1,3}$"
Distance = Annotated[str, Field(pattern=r"^0x[01]\.[0-9a-f]+p[+-][0-9]{1,3}$")]
Step = Annotated[int, Field(ge=1)]
Measure = Literal["weights", "weights_of_a_tensor", "optimizer_of_a_tensor", "loss", "gradient_norm"]
ChangeName = Literal["learning_rate", "optimizer", "token", "window"]
CHANGES: tuple[ChangeName, ...] = ("learning_rate", "optimizer", "token", "window")
SMALLEST_CHANGE: ChangeName = "token"
"""The change that a platform must see for a replay on it to be judged."""


class TensorDistances(Config):
    """Relative distances of two states: overall, and of each tensor."""

    overall: Distance
    tensors: Annotated[dict[str, Distance], Field(min_length=1)]

    @property
    def largest(self) -> float:
        """The largest distance of any tensor."""
        return max(map(parse_hex_float, self.tensors.values()))


class Stretch(Config):
    """How far an honest replay of some steps on one platform was from what is recorded, and what follows from it.

    Attributes:
        weights_digest: digest `state/1` of the weights that the replay ended with.
        optimizer: None where the recorded checkpoint holds weights only.
        loss, gradient_norm: the largest relative difference of any of these steps.
        thresholds: by measure; empty where the platform gives equal bits.
        least_learning_rates: by change: from which learning rate of the last step on it would be seen; none for a
            change that is never seen, and none where the platform gives equal bits.
        seen: whether each change would be seen at the peak learning rate; empty where the platform gives equal bits.
    """

    first_step: Step
    last_step: Step
    weights_digest: Sha256
    weights: TensorDistances
    optimizer: TensorDistances | None
    loss: Distance
    gradient_norm: Distance
    thresholds: dict[Measure, Distance]
    least_learning_rates: dict[ChangeName, Distance]
    seen: dict[ChangeName, bool]

    @property
    def num_steps(self) -> int:
        """Steps of the replay, those that the recipe leaves out among them."""
        return self.last_step - self.first_step + 1

    def noise(self) -> dict[str, float]:
        """What was measured, by measure."""
        found = {
            WEIGHTS: parse_hex_float(self.weights.overall),
            WEIGHTS_TENSOR: self.weights.largest,
            LOSS: parse_hex_float(self.loss),
            GRADIENT_NORM: parse_hex_float(self.gradient_norm),
        }
        return found if self.optimizer is None else {**found, OPTIMIZER_TENSOR: self.optimizer.largest}

    def sees(self, change: ChangeName, learning_rate: float) -> bool:
        """Whether a change in a last step of that learning rate would be beyond the threshold."""
        least = self.least_learning_rates.get(change)
        return least is not None and learning_rate >= parse_hex_float(least)


class MeasuredPlatform(Config):
    """A platform on which the recorded steps were replayed.

    Attributes:
        variables: what was set to get this platform on the machine at hand; empty for the machine as it is.
        platform: its record with the digest `platform/1`.
        equal_bits: whether every replay gave what is recorded, bit for bit: there is no noise to allow for.
    """

    variables: dict[str, str]
    platform: dict[str, Any]
    equal_bits: bool
    stretches: Annotated[list[Stretch], Field(min_length=1)]

    def stretch_for(self, first: int, last: int) -> Stretch | None:
        """The stretch that judges a replay of these steps.

        The one that begins last of those that begin no later and are at least as long; of these the shortest. Noise
        differs from stretch to stretch, so that steps which were not measured themselves can pass but never fail.
        """
        fits = [s for s in self.stretches if s.first_step <= first and s.num_steps >= last - first + 1]
        return max(fits, key=lambda stretch: (stretch.first_step, -stretch.num_steps), default=None)


class ChangedStep(Config):
    """How far the weights ended from those of an honest replay when the last of some steps was changed.

    Attributes:
        learning_rate: of the last step; what a changed step does is in proportion to it.
    """

    change: ChangeName
    first_step: Step
    last_step: Step
    learning_rate: Annotated[str, Field(pattern=POSITIVE)]
    weights: TensorDistances


class Tolerance(Config):
    """`tolerance.json` of a training stage.

    Attributes:
        time_utc: when it was measured.
        code: digest `sources/1` of the packages that measured.
        factor: thresholds are so many times the noise.
        peak_learning_rate: of the recipe.
        recorded_platform: the platform record of the recorded run.
    """

    format: Literal["openwright-tolerance/1"]
    stage: str
    precision: Literal["fp32", "bf16"]
    time_utc: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    code: Sha256
    factor: Literal[8]
    peak_learning_rate: Annotated[str, Field(pattern=POSITIVE)]
    recorded_platform: dict[str, Any]
    changes: Annotated[list[ChangedStep], Field(min_length=1)]
    platforms: Annotated[list[MeasuredPlatform], Field(min_length=1)]

    def effects(self, stretch: Stretch) -> dict[ChangeName, float]:
        """How far each change moved the weights at the end of a stretch, by unit of learning rate."""
        span = (stretch.first_step, stretch.last_step)
        return {
            changed.change: parse_hex_float(changed.weights.overall) / parse_hex_float(changed.learning_rate)
            for changed in self.changes
            if (changed.first_step, changed.last_step) == span
        }


def read_tolerance(path: Path) -> Tolerance:
    """Read a `tolerance.json`.

    Raises:
        BundleError: when it is not of this format.
    """
    values = read_json(path)
    try:
        return Tolerance.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BundleError(f"{place}: {first['msg']}", expected=TOLERANCE_FORMAT, where=str(path)) from None


def conclude(tolerance: Tolerance, stretch: Stretch) -> dict[str, dict[Any, Any]]:
    """Thresholds, least learning rates and what is seen at the peak: all that follows from distances.

    A threshold is `FACTOR` times the noise. A change is seen if a replay of it would be beyond the threshold even where
    noise works for the forger: its own distance, less the noise, is as large. What one changed step does to the weights
    is in proportion to its learning rate, so that the end of a decay shows less than the peak.
    """
    noise = {measure: max(value, FLOOR) for measure, value in stretch.noise().items()}
    limit, peak = FACTOR * noise[WEIGHTS], parse_hex_float(tolerance.peak_learning_rate)
    effects = tolerance.effects(stretch)
    least = {
        change: (limit + noise[WEIGHTS]) / effect
        for change, effect in effects.items()
        if effect > 0 and limit <= LARGEST_THRESHOLD
    }
    return {
        "thresholds": {measure: hex_float(FACTOR * value) for measure, value in noise.items()},
        "least_learning_rates": {change: hex_float(rate) for change, rate in least.items()},
        "seen": {change: change in least and least[change] <= peak for change in effects},
    }


NOTHING: dict[str, dict[Any, Any]] = {"thresholds": {}, "least_learning_rates": {}, "seen": {}}
"""What follows from equal bits: there is no noise to allow for."""


def concluded(values: dict[str, Any]) -> Tolerance:
    """Add what follows from its distances to the values of a file."""
    measured = Tolerance.model_validate(values)
    platforms = []
    for entry, platform in zip(values["platforms"], measured.platforms, strict=True):
        derived = [NOTHING if platform.equal_bits else conclude(measured, stretch) for stretch in platform.stretches]
        stretches = [{**told, **more} for told, more in zip(entry["stretches"], derived, strict=True)]
        platforms.append({**entry, "stretches": stretches})
    tolerance = Tolerance.model_validate({**values, "platforms": platforms})
    wrong = list(problems(tolerance))
    assert not wrong, wrong
    return tolerance


def problems(tolerance: Tolerance) -> Iterator[str]:
    """What in a file does not follow from the rest of it."""
    records = [("recorded_platform", tolerance.recorded_platform)]
    records += [(f"platforms.{number}", measured.platform) for number, measured in enumerate(tolerance.platforms)]
    for place, record in records:
        if record.get("digest") != platform_digest(record):
            yield f"{place}: the digest is not that of the record"
    told = sorted((changed.first_step, changed.last_step, changed.change) for changed in tolerance.changes)
    if told != [(*stretch, change) for stretch in sorted({each[:2] for each in told}) for change in CHANGES]:
        yield f"changes: not each of {', '.join(CHANGES)} once for the same steps"
        return
    spans = sorted({(changed.first_step, changed.last_step) for changed in tolerance.changes})
    for number, measured in enumerate(tolerance.platforms):
        if [(stretch.first_step, stretch.last_step) for stretch in measured.stretches] != spans:
            yield f"platforms.{number}: noise and changes were measured on different steps"
            continue
        noise = [value for stretch in measured.stretches for value in stretch.noise().values()]
        if measured.equal_bits != all(value == 0 for value in noise):
            yield f"platforms.{number}: equal_bits contradicts the distances"
        for stretch in measured.stretches:
            derived = NOTHING if measured.equal_bits else conclude(tolerance, stretch)
            for name, value in derived.items():
                if getattr(stretch, name) != value:
                    yield f"platforms.{number}, step {stretch.last_step}: {name} do not follow from the distances"
    for place, distances in _weight_distances(tolerance):
        if max(parse_hex_float(distances.overall), distances.largest) > 2:
            yield f"{place}: a relative distance above 2"


def _weight_distances(tolerance: Tolerance) -> Iterator[tuple[str, TensorDistances]]:
    for number, changed in enumerate(tolerance.changes):
        yield f"changes.{number}", changed.weights
    for number, measured in enumerate(tolerance.platforms):
        for stretch in measured.stretches:
            yield f"platforms.{number}", stretch.weights
            if stretch.optimizer is not None:
                yield f"platforms.{number}", stretch.optimizer


def platform_digest(record: Mapping[str, Any]) -> str:
    """Digest `platform/1` of a record that may hold its digest already."""
    return tagged_digest("platform/1", {name: value for name, value in record.items() if name != "digest"})


def summary_of(tolerance: Tolerance) -> str:
    """A sentence about what was measured, for cards."""
    noisy = [measured for measured in tolerance.platforms if not measured.equal_bits]
    whose = f"measured by the publisher on {tolerance.time_utc[:10]}"
    if not noisy:
        return f"{whose}: {len(tolerance.platforms)} platforms, all of which gave the recorded bits"
    stretches = [stretch for measured in noisy for stretch in measured.stretches]
    distances = sorted(stretch.noise()[WEIGHTS] for stretch in stretches)
    seen = {change: sum(stretch.seen[change] for stretch in stretches) for change in CHANGES}
    others = "1 other platform" if len(noisy) == 1 else f"{len(noisy)} other platforms"
    lengths = sorted({stretch.num_steps for stretch in stretches})
    span = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else str(lengths[0])
    told = f"after {span} steps the weights end {distances[0]:.1e} to {distances[-1]:.1e} from the"
    shown = f"one changed token would be seen in {seen[SMALLEST_CHANGE]} of {len(stretches)} trials"
    return (
        f"{whose}, on {others} that give other bits: {told} recorded ones (relative L2); through thresholds of {FACTOR}"
        f" times that, {shown}, a learning rate times 1.0001 at one step in {seen['learning_rate']};"
        " a replay within tolerance is not bitwise"
    )


def relative_difference(one: str, other: str) -> float:
    """Difference of two hexadecimal floats over the larger of their magnitudes; NaN where one is not finite."""
    a, b = parse_hex_float(one), parse_hex_float(other)
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))
