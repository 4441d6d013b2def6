"""What is stored of the noise between platforms (`openwright-tolerance/1`), and what follows from it.

A publisher measures how far honest replays on other platforms end from the recorded weights, and how far a replay with
one small change ends from an honest one. Thresholds and what can be seen through them follow from these distances by
the rules below; `verify` derives them again. Whatever the file says, two bounds hold: a platform that cannot see one
changed token judges nothing, and no threshold on the weights is above `LARGEST_THRESHOLD`.
"""

from collections.abc import Iterable, Iterator, Mapping
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
"""Thresholds are so many times the largest noise that was measured."""

LARGEST_THRESHOLD = 1e-4
"""No overall distance of the weights above this is within any tolerance."""

WEIGHTS, WEIGHTS_TENSOR, OPTIMIZER_TENSOR = "weights", "weights_of_a_tensor", "optimizer_of_a_tensor"
LOSS, GRADIENT_NORM = "loss", "gradient_norm"
MEASURES = (WEIGHTS, WEIGHTS_TENSOR, OPTIMIZER_TENSOR, LOSS, GRADIENT_NORM)
FLOORS = {LOSS: 2.0**-24, GRADIENT_NORM: 2.0**-24}
"""Noise is taken to be at least this: the spacing of fp32, where a few steps may happen to agree."""

SMALLEST_CHANGE = "token"
CHANGES = ("learning_rate", "optimizer", "token", "window")

POSITIVE = r"^0x1\.[0-9a-f]+p[+-][0-9]{1,3}$"
Distance = Annotated[str, Field(pattern=r"^0x[01]\.[0-9a-f]+p[+-][0-9]{1,3}$")]
Step = Annotated[int, Field(ge=1)]
Measure = Literal["weights", "weights_of_a_tensor", "optimizer_of_a_tensor", "loss", "gradient_norm"]
ChangeName = Literal["learning_rate", "optimizer", "token", "window"]


class TensorDistances(Config):
    """Relative distances of two states: overall, and of each tensor."""

    overall: Distance
    tensors: Annotated[dict[str, Distance], Field(min_length=1)]

    @property
    def largest(self) -> float:
        """The largest distance of any tensor."""
        return max(map(parse_hex_float, self.tensors.values()))


class Noise(Config):
    """How far an honest replay of some steps on one platform was from what is recorded.

    Attributes:
        weights_digest: digest `state/1` of the weights that the replay ended with.
        optimizer: None where the recorded checkpoint holds weights only.
        loss, gradient_norm: the largest relative difference of any of these steps.
    """

    first_step: Step
    last_step: Step
    weights_digest: Sha256
    weights: TensorDistances
    optimizer: TensorDistances | None
    loss: Distance
    gradient_norm: Distance

    def values(self) -> dict[str, float]:
        """The noise by measure."""
        found = {
            WEIGHTS: parse_hex_float(self.weights.overall),
            WEIGHTS_TENSOR: self.weights.largest,
            LOSS: parse_hex_float(self.loss),
            GRADIENT_NORM: parse_hex_float(self.gradient_norm),
        }
        return found if self.optimizer is None else {**found, OPTIMIZER_TENSOR: self.optimizer.largest}


class MeasuredPlatform(Config):
    """A platform on which the recorded steps were replayed, with what follows from it.

    Attributes:
        variables: what was set to get this platform on the machine at hand; empty for the machine as it is.
        platform: its record with the digest `platform/1`.
        equal_bits: whether every replay ended in the recorded weights bit for bit: there is no noise to allow for.
        thresholds: by measure; empty where bits are equal.
        least_learning_rates: by change: from which learning rate of the last step on it would be seen; none for a
            change that is never seen, and none where bits are equal.
        seen: whether each change would be seen at the peak learning rate; empty where bits are equal.
    """

    variables: dict[str, str]
    platform: dict[str, Any]
    equal_bits: bool
    noise: Annotated[list[Noise], Field(min_length=1)]
    thresholds: dict[Measure, Distance]
    least_learning_rates: dict[ChangeName, Distance]
    seen: dict[ChangeName, bool]

    def sees(self, change: ChangeName, learning_rate: float) -> bool:
        """Whether a change in a last step of that learning rate would be beyond the threshold."""
        least = self.least_learning_rates.get(change)
        return least is not None and learning_rate >= parse_hex_float(least)

    @property
    def num_steps(self) -> int:
        """Steps of the longest replay that was measured."""
        return max(noise.last_step - noise.first_step + 1 for noise in self.noise)


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
        factor: thresholds are so many times the largest noise.
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

    def effects(self) -> dict[ChangeName, float]:
        """The smallest overall distance that each change made in any measured stretch, by unit of learning rate."""
        found: dict[ChangeName, float] = {}
        for changed in self.changes:
            effect = parse_hex_float(changed.weights.overall) / parse_hex_float(changed.learning_rate)
            found[changed.change] = min(effect, found.get(changed.change, effect))
        return found


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


def conclude(tolerance: Tolerance, noise: Iterable[Noise]) -> dict[str, dict[Any, Any]]:
    """Thresholds, least learning rates and what is seen at the peak: all that follows from distances.

    A threshold is `FACTOR` times the largest noise. A change is seen if a replay of it would be beyond the threshold
    even where noise works for the forger: its own distance, less the noise, is as large. What one changed step does to
    the weights is in proportion to its learning rate, so that the end of a decay shows less than the peak.

    Args:
        tolerance: where the changes are told.
        noise: what was measured on one platform.
    """
    largest = dict(FLOORS)
    for measured in noise:
        for measure, value in measured.values().items():
            largest[measure] = max(value, largest.get(measure, 0.0))
    limit, peak = FACTOR * largest[WEIGHTS], parse_hex_float(tolerance.peak_learning_rate)
    effects = tolerance.effects()
    least = {
        change: (limit + largest[WEIGHTS]) / effect
        for change, effect in effects.items()
        if effect > 0 and limit <= LARGEST_THRESHOLD
    }
    return {
        "thresholds": {measure: hex_float(FACTOR * value) for measure, value in largest.items()},
        "least_learning_rates": {change: hex_float(rate) for change, rate in least.items()},
        "seen": {change: change in least and least[change] <= peak for change in effects},
    }


NOTHING: dict[str, dict[Any, Any]] = {"thresholds": {}, "least_learning_rates": {}, "seen": {}}
"""What follows from equal bits: there is no noise to allow for."""


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
    stretches = sorted({(changed.first_step, changed.last_step) for changed in tolerance.changes})
    for number, measured in enumerate(tolerance.platforms):
        place = f"platforms.{number}"
        if [(noise.first_step, noise.last_step) for noise in measured.noise] != stretches:
            yield f"{place}: noise and changes were measured on different steps"
        if measured.equal_bits != all(value == 0 for noise in measured.noise for value in noise.values().values()):
            yield f"{place}: equal_bits contradicts the distances"
        derived = NOTHING if measured.equal_bits else conclude(tolerance, measured.noise)
        for name, value in derived.items():
            if getattr(measured, name) != value:
                yield f"{place}: {name} do not follow from the distances"
    for place, distances in _weight_distances(tolerance):
        if max(parse_hex_float(distances.overall), distances.largest) > 2:
            yield f"{place}: a relative distance above 2"


def _weight_distances(tolerance: Tolerance) -> Iterator[tuple[str, TensorDistances]]:
    for number, changed in enumerate(tolerance.changes):
        yield f"changes.{number}", changed.weights
    for number, measured in enumerate(tolerance.platforms):
        for noise in measured.noise:
            yield f"platforms.{number}", noise.weights
            if noise.optimizer is not None:
                yield f"platforms.{number}", noise.optimizer


def platform_digest(record: Mapping[str, Any]) -> str:
    """Digest `platform/1` of a record that may hold its digest already."""
    return tagged_digest("platform/1", {name: value for name, value in record.items() if name != "digest"})
