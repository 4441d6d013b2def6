"""The exact data order (`order/1`): which window of which source is read at which place of a run.

A pure function of (digest of the token shards, seed, sources, phases, place), in integers only: no index is stored,
resuming costs nothing, and world size, workers and prefetch cannot change it. `docs/formats.md` specifies it.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from provenance.canonical import MAX_SAFE_INTEGER, Json, canonical_json
from provenance.errors import DataError

ORDER_VERSION = "order/1"
NUM_ROUNDS = 8
MASK_64 = 2**64 - 1
MIX_FACTOR_1 = 0xBF58476D1CE4E5B9
MIX_FACTOR_2 = 0x94D049BB133111EB


@dataclass(frozen=True)
class OrderSource:
    """A source of the split: its name and how many windows it holds."""

    name: str
    num_windows: int


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one batch size and one mixture.

    Attributes:
        num_steps: optimizer steps in the phase.
        sequences_per_step: windows read per step.
        counts: draws from each source over the whole phase; they sum to num_steps * sequences_per_step.
    """

    num_steps: int
    sequences_per_step: int
    counts: tuple[int, ...]

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole phase."""
        return self.num_steps * self.sequences_per_step


@dataclass(frozen=True)
class Draw:
    """One window read: index of the source, epoch of that source (from 0), window within the source."""

    source: int
    epoch: int
    window: int


def largest_remainder(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `total` in proportion to integer weights, exactly; ties go to the earlier weight.

    Raises:
        DataError: when the total or a weight is negative, or no weight is positive.
    """
    weight_sum = sum(weights)
    if total < 0 or min(weights, default=0) < 0 or weight_sum <= 0:
        raise DataError(f"total {total} over weights {list(weights)}", expected="weights >= 0, at least one positive")
    shares = [divmod(total * weight, weight_sum) for weight in weights]
    counts = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-shares[index][1], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


@lru_cache(maxsize=4096)
def round_keys(tokens_digest: str, seed: int, source: str, epoch: int) -> tuple[int, ...]:
    """The eight round keys (u64) of one epoch of one source."""
    data = b""
    for half in (0, 1):
        value = {"tokens_digest": tokens_digest, "seed": seed, "source": source, "epoch": epoch, "half": half}
        data += hashlib.sha256(f"openwright:{ORDER_VERSION}\n".encode() + canonical_json(value)).digest()
    return tuple(int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(NUM_ROUNDS))


def half_bits(size: int) -> int:
    """Bits of each half of the Feistel network that permutes 0 .. size-1."""
    return ((size - 1).bit_length() + 1) // 2


def permute(keys: Sequence[int], size: int, x: int) -> int:
    """Image of `x` under the keyed permutation of 0 .. size-1 (Feistel rounds with cycle walking)."""
    if size == 1:
        return 0
    half = half_bits(size)
    mask = (1 << half) - 1
    while True:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        x = (left << half) | right
        if x < size:
            return x


def permute_inverse(keys: Sequence[int], size: int, x: int) -> int:
    """The place that `permute` maps to `x`."""
    if size == 1:
        return 0
    half = half_bits(size)
    mask = (1 << half) - 1
    while True:
        left, right = x >> half, x & mask
        for key in reversed(keys):
            left, right = right ^ (_mix(left ^ key) & mask), left
        x = (left << half) | right
        if x < size:
            return x


def _mix(z: int) -> int:
    z ^= z >> 30
    z = (z * MIX_FACTOR_1) & MASK_64
    z ^= z >> 27
    z = (z * MIX_FACTOR_2) & MASK_64
    return z ^ (z >> 31)


def slot_of_draw(counts: Sequence[int], source: int, draw: int) -> int:
    """Slot within a phase of the `draw`-th draw (from 0) of a source: its rank by (ideal place, source)."""
    odd = 2 * draw + 1
    slot = 0
    for other, count in enumerate(counts):
        if other == source:
            slot += draw
        elif count:
            # How many odd numbers o have o / (2 count) before odd / (2 counts[source]); equal places go to the
            # earlier source.
            limit = odd * count
            quotient = limit // counts[source] if other < source else (limit - 1) // counts[source]
            slot += (quotient + 1) // 2
    return slot


def draws_before(counts: Sequence[int], slot: int) -> list[int]:
    """How many draws of each source lie in the first `slot` slots of a phase."""
    total = sum(counts)
    # Draws with an ideal place before slot/total are a prefix of the phase that misses `slot` by less than the
    # number of sources; the rest is walked.
    drawn = [((2 * count * slot - 1) // total + 1) // 2 if count and slot else 0 for count in counts]
    while sum(drawn) < slot:
        drawn[_next_source(counts, drawn)] += 1
    while sum(drawn) > slot:
        last = max(
            (index for index, done in enumerate(drawn) if done),
            key=lambda index: slot_of_draw(counts, index, drawn[index] - 1),
        )
        drawn[last] -= 1
    return drawn


def _next_source(counts: Sequence[int], drawn: Sequence[int]) -> int:
    """The source whose next draw has the earliest ideal place; the earlier source where places are equal."""
    best = -1
    for index, count in enumerate(counts):
        if drawn[index] == count:
            continue
        if best < 0 or (2 * drawn[index] + 1) * counts[best] < (2 * drawn[best] + 1) * count:
            best = index
    return best


@dataclass(frozen=True)
class Order:
    """The order of a whole run; steps are numbered from 1, sequences from 0.

    Attributes:
        tokens_digest: digest `tokens/1` of the split that is read.
        seed: integer within ±(2^53 - 1).
        sources: sources of the split in file order.
        phases: phases in the order in which they run.

    Raises:
        DataError: when the counts do not fit the phases and sources.
    """

    tokens_digest: str
    seed: int
    sources: tuple[OrderSource, ...]
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        if abs(self.seed) > MAX_SAFE_INTEGER:
            raise DataError(f"seed {self.seed}", expected="an integer within ±(2^53 - 1)")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise DataError(f"sources {names}", expected="different names")
        for number, phase in enumerate(self.phases, start=1):
            self._check_phase(phase, f"phase {number}")

    def _check_phase(self, phase: Phase, where: str) -> None:
        if phase.num_steps < 1 or phase.sequences_per_step < 1:
            raise DataError(
                f"{phase.num_steps} steps of {phase.sequences_per_step} sequences",
                expected="at least one of each",
                where=where,
            )
        if len(phase.counts) != len(self.sources) or min(phase.counts, default=0) < 0:
            raise DataError(
                f"counts {phase.counts}", expected=f"{len(self.sources)} counts, none negative", where=where
            )
        if sum(phase.counts) != phase.num_sequences:
            raise DataError(
                f"counts that sum to {sum(phase.counts)}", expected=f"{phase.num_sequences} sequences", where=where
            )
        for source, count in zip(self.sources, phase.counts, strict=True):
            if count and source.num_windows < 1:
                raise DataError(
                    f"{count} draws from source {source.name!r}, which has no whole window",
                    expected="longer texts, a shorter window or another mixture",
                    where=where,
                )

    @property
    def num_steps(self) -> int:
        """Steps of all phases."""
        return self._first_steps[-1]

    @property
    def num_sequences(self) -> int:
        """Sequences of all phases."""
        return self._first_sequences[-1]

    @cached_property
    def _first_steps(self) -> list[int]:
        return list(accumulate((phase.num_steps for phase in self.phases), initial=0))

    @cached_property
    def _first_sequences(self) -> list[int]:
        return list(accumulate((phase.num_sequences for phase in self.phases), initial=0))

    @cached_property
    def _draws_before_phase(self) -> list[tuple[int, ...]]:
        """Draws of each source before each phase, and over the whole run at the end."""
        totals = [(0,) * len(self.sources)]
        for phase in self.phases:
            totals.append(tuple(done + count for done, count in zip(totals[-1], phase.counts, strict=True)))
        return totals

    @cached_property
    def window_offsets(self) -> tuple[int, ...]:
        """Window id of each source's first window."""
        return tuple(accumulate((source.num_windows for source in self.sources), initial=0))[:-1]

    def locate_step(self, step: int) -> tuple[int, int]:
        """Phase index of a step and the slot within the phase at which the step begins."""
        if not 1 <= step <= self.num_steps:
            raise DataError(f"step {step}", expected=f"a step from 1 to {self.num_steps}")
        phase = bisect_right(self._first_steps, step - 1) - 1
        return phase, (step - 1 - self._first_steps[phase]) * self.phases[phase].sequences_per_step

    def first_draws(self, phase: int, slot: int) -> list[int]:
        """Draws of each source before a slot of a phase, counted over the whole run."""
        within = draws_before(self.phases[phase].counts, slot)
        return [before + done for before, done in zip(self._draws_before_phase[phase], within, strict=True)]

    def draw_at(self, g: int) -> Draw:
        """The draw at global sequence number `g`, from 0."""
        if not 0 <= g < self.num_sequences:
            raise DataError(f"sequence {g}", expected=f"a sequence from 0 to {self.num_sequences - 1}")
        phase = bisect_right(self._first_sequences, g) - 1
        return next(self._draws_from(phase, g - self._first_sequences[phase]))

    def step_draws(self, step: int) -> list[Draw]:
        """The draws of a step (from 1) in slot order."""
        phase, slot = self.locate_step(step)
        draws = self._draws_from(phase, slot)
        return [next(draws) for _ in range(self.phases[phase].sequences_per_step)]

    def _draws_from(self, phase: int, slot: int) -> Iterator[Draw]:
        counts = self.phases[phase].counts
        drawn = draws_before(counts, slot)
        while True:
            source = _next_source(counts, drawn)
            r = self._draws_before_phase[phase][source] + drawn[source]
            drawn[source] += 1
            size = self.sources[source].num_windows
            epoch, place = divmod(r, size)
            yield Draw(source, epoch, permute(self.epoch_keys(source, epoch), size, place))

    def epoch_keys(self, source: int, epoch: int) -> tuple[int, ...]:
        """Round keys of one epoch of a source."""
        return round_keys(self.tokens_digest, self.seed, self.sources[source].name, epoch)

    def window_ids(self, step: int) -> list[int]:
        """Window ids of a step in slot order; sources are numbered on."""
        return self._ids_of(self.step_draws(step))

    def order_digest(self, step: int) -> str:
        """sha256 over the window ids of a step, each as a little-endian u64."""
        return self.digest_of_draws(self.step_draws(step))

    def digest_of_draws(self, draws: Sequence[Draw]) -> str:
        """The order digest of a step whose draws are known already."""
        return hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in self._ids_of(draws))).hexdigest()

    def _ids_of(self, draws: Sequence[Draw]) -> list[int]:
        return [self.window_offsets[draw.source] + draw.window for draw in draws]

    def steps_that_read(self, source: int, window: int) -> list[int]:
        """Every step that reads a window, in order: at most one for each epoch that the run reaches."""
        if not 0 <= source < len(self.sources) or not 0 <= window < self.sources[source].num_windows:
            raise DataError(f"source {source}, window {window}", expected="a window of one of the sources")
        size = self.sources[source].num_windows
        cumulative = [totals[source] for totals in self._draws_before_phase]
        steps = []
        for epoch in range(-(-cumulative[-1] // size)):
            r = epoch * size + permute_inverse(self.epoch_keys(source, epoch), size, window)
            if r >= cumulative[-1]:
                break
            phase = bisect_right(cumulative, r) - 1
            slot = slot_of_draw(self.phases[phase].counts, source, r - cumulative[phase])
            steps.append(self._first_steps[phase] + slot // self.phases[phase].sequences_per_step + 1)
        return steps

    def as_json(self) -> dict[str, Json]:
        """The form of the ledger's `start` record, without the split and the window length."""
        return {
            "version": ORDER_VERSION,
            "tokens_digest": self.tokens_digest,
            "seed": self.seed,
            "sources": [{"name": source.name, "num_windows": source.num_windows} for source in self.sources],
            "phases": [
                {
                    "num_steps": phase.num_steps,
                    "sequences_per_step": phase.sequences_per_step,
                    "counts": list(phase.counts),
                }
                for phase in self.phases
            ],
        }

    @classmethod
    def from_json(cls, value: Json) -> "Order":
        """Read what `as_json` wrote; the ledger's further keys `split` and `window_tokens` are left to the caller.

        Raises:
            DataError: for an unknown version or a malformed value.
        """
        if not isinstance(value, dict) or value.get("version") != ORDER_VERSION:
            found = value.get("version") if isinstance(value, dict) else type(value).__name__
            raise DataError(f"order of version {found!r}", expected=ORDER_VERSION)
        try:
            sources = tuple(OrderSource(str(item["name"]), int(item["num_windows"])) for item in value["sources"])
            phases = tuple(
                Phase(int(item["num_steps"]), int(item["sequences_per_step"]), tuple(map(int, item["counts"])))
                for item in value["phases"]
            )
            order = cls(str(value["tokens_digest"]), int(value["seed"]), sources, phases)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"malformed order ({error!r})", expected=f"the fields of {ORDER_VERSION}") from error
        if any(value[key] != found for key, found in order.as_json().items()):
            raise DataError("an order whose fields have other types or extra keys", expected=ORDER_VERSION)
        return order
