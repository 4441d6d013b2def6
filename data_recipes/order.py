"""The exact data order (`order/1`, `order/2`): which window of which source is read at which place of a run.

A pure function of (digest of the token shards, seed, sources, phases, place), in integers only: no index is stored,
resuming costs nothing, and world size, workers and prefetch cannot change it. `docs/formats.md` specifies it.

`order/2` is written where `order/1` cannot say it: phases with windows of another length, and runs that begin with
draws made before. There a source at one window length is a pool, with epochs of its own. An `order/3` is no function
of these: a file gives it (`data_recipes.order_file`).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from data_recipes.interleave import draws_before_slot, next_source, slot_of_draw
from data_recipes.permutation import permute, permute_inverse, round_keys
from provenance.canonical import MAX_SAFE_INTEGER, Json
from provenance.errors import DataError

ORDER_1, ORDER_2, ORDER_3 = "order/1", "order/2", "order/3"
FORMULAS = (ORDER_1, ORDER_2)
ORDER_VERSIONS = (*FORMULAS, ORDER_3)


@dataclass(frozen=True)
class OrderSource:
    """What is drawn from: a source of the split; under `order/2` a pool, which is a source at one window length.

    Attributes:
        num_windows: how many windows it holds.
        window_tokens: length of a pool's windows; None under `order/1`.
        draws_before: draws of the pool before the first step of the order.
    """

    name: str
    num_windows: int
    window_tokens: int | None = None
    draws_before: int = 0

    def as_json(self) -> dict[str, Json]:
        """The entry of a ledger's `start` record."""
        fields: dict[str, Json] = {"name": self.name, "num_windows": self.num_windows}
        if self.window_tokens is not None:
            fields |= {"window_tokens": self.window_tokens, "draws_before": self.draws_before}
        return fields


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one batch size, one window length and one mixture.

    Attributes:
        num_steps: optimizer steps in the phase.
        sequences_per_step: windows read per step.
        counts: draws from each source over the whole phase; they sum to num_steps * sequences_per_step.
        window_tokens: length of the windows; None under `order/1`.
    """

    num_steps: int
    sequences_per_step: int
    counts: tuple[int, ...]
    window_tokens: int | None = None

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole phase."""
        return self.num_steps * self.sequences_per_step

    def as_json(self) -> dict[str, Json]:
        """The entry of a ledger's `start` record."""
        fields: dict[str, Json] = {"num_steps": self.num_steps, "sequences_per_step": self.sequences_per_step}
        if self.window_tokens is not None:
            fields["window_tokens"] = self.window_tokens
        return {**fields, "counts": list(self.counts)}


@dataclass(frozen=True)
class Draw:
    """One window read: index of the source, epoch of that source (from 0), window within the source."""

    source: int
    epoch: int
    window: int


@dataclass(frozen=True)
class Order:
    """The order of a run; steps are numbered from 1, sequences from 0.

    Attributes:
        tokens_digest: digest `tokens/1` of the split that is read.
        seed: integer within ±(2^53 - 1).
        sources: sources of the split in file order; under `order/2` its pools, one length after another.
        phases: phases in the order in which they run.
        window_tokens: the run's usual window length, at which pools have the keys of `order/1`; None makes this an
            `order/1`.
        first_step: the step with which the phases begin; steps before it are not in this order.

    Raises:
        DataError: when the counts do not fit the phases and sources.
    """

    tokens_digest: str
    seed: int
    sources: tuple[OrderSource, ...]
    phases: tuple[Phase, ...]
    window_tokens: int | None = None
    first_step: int = 1

    def __post_init__(self) -> None:
        if abs(self.seed) > MAX_SAFE_INTEGER:
            raise DataError(f"seed {self.seed}", expected="an integer within ±(2^53 - 1)")
        names = [(source.name, source.window_tokens) for source in self.sources]
        if len(set(names)) != len(names):
            raise DataError(f"sources {names}", expected="different names, or windows of different lengths")
        for number, phase in enumerate(self.phases, start=1):
            self._check_phase(phase, f"phase {number}")
        lengths = [self.window_tokens, *(source.window_tokens for source in self.sources)]
        lengths += [phase.window_tokens for phase in self.phases]
        if None in lengths and any(length is not None for length in lengths):
            raise DataError("window lengths of some sources or phases only", expected="all of them, or none (order/1)")
        if any(length is not None and length < 1 for length in lengths):
            raise DataError(f"windows of {lengths} tokens", expected="at least 1")
        self._check_start()

    def _check_start(self) -> None:
        before = [source.draws_before for source in self.sources]
        if self.first_step < 1 or min(before, default=0) < 0:
            raise DataError(f"first step {self.first_step}, draws before it {before}", expected="1 or more; 0 or more")
        if any(before) and (self.first_step == 1 or self.window_tokens is None):
            raise DataError(f"draws {before} before the first step", expected="none, unless the run begins later")
        if self.first_step > 1 and self.window_tokens is None:
            raise DataError(f"{self.version} that begins with step {self.first_step}", expected=ORDER_2)

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
            if count and source.window_tokens != phase.window_tokens:
                raise DataError(
                    f"draws from windows of {source.window_tokens} tokens in a phase of {phase.window_tokens}",
                    expected="draws from pools of the phase's own length",
                    where=where,
                )
            if count and source.num_windows < 1:
                raise DataError(
                    f"{count} draws from source {source.name!r}, which has no whole window",
                    expected="longer texts, a shorter window or another mixture",
                    where=where,
                )

    @property
    def version(self) -> str:
        """`order/1` or `order/2`."""
        return ORDER_1 if self.window_tokens is None else ORDER_2

    @property
    def num_steps(self) -> int:
        """Number of the last step."""
        return self._steps_before[-1]

    @property
    def num_sequences(self) -> int:
        """Sequences of all phases."""
        return self._first_sequences[-1]

    @cached_property
    def _steps_before(self) -> list[int]:
        """The last step before each phase, and that of the run at the end."""
        return list(accumulate((phase.num_steps for phase in self.phases), initial=self.first_step - 1))

    @cached_property
    def _first_sequences(self) -> list[int]:
        return list(accumulate((phase.num_sequences for phase in self.phases), initial=0))

    @cached_property
    def _draws_before_phase(self) -> list[tuple[int, ...]]:
        """Draws of each source before each phase, and over the whole run at the end."""
        totals = [tuple(source.draws_before for source in self.sources)]
        for phase in self.phases:
            totals.append(tuple(done + count for done, count in zip(totals[-1], phase.counts, strict=True)))
        return totals

    @cached_property
    def window_offsets(self) -> tuple[int, ...]:
        """Window id of each source's first window."""
        return tuple(accumulate((source.num_windows for source in self.sources), initial=0))[:-1]

    def locate_step(self, step: int) -> tuple[int, int]:
        """Phase index of a step and the slot within the phase at which the step begins.

        Raises:
            DataError: for a step that is not in this order.
        """
        if not self.first_step <= step <= self.num_steps:
            began = "" if self.first_step == 1 else "; earlier ones are in the order of the run that it comes from"
            raise DataError(f"step {step}", expected=f"a step from {self.first_step} to {self.num_steps}{began}")
        phase = bisect_right(self._steps_before, step - 1) - 1
        return phase, (step - 1 - self._steps_before[phase]) * self.phases[phase].sequences_per_step

    def first_draws(self, phase: int, slot: int) -> list[int]:
        """Draws of each source before a slot of a phase, counted over the whole run."""
        within = draws_before_slot(self.phases[phase].counts, slot)
        return [before + done for before, done in zip(self._draws_before_phase[phase], within, strict=True)]

    def draws_until(self, step: int) -> list[int]:
        """Draws of each source up to the end of a step, or before the first one, counted over the whole run."""
        if step == self.num_steps:
            return list(self._draws_before_phase[-1])
        return self.first_draws(*self.locate_step(step + 1))

    def draw_at(self, g: int) -> Draw:
        """The draw at sequence number `g`, from 0 at the first step of the order."""
        if not 0 <= g < self.num_sequences:
            raise DataError(f"sequence {g}", expected=f"a sequence from 0 to {self.num_sequences - 1}")
        phase = bisect_right(self._first_sequences, g) - 1
        return next(self._draws_from(phase, g - self._first_sequences[phase]))

    def step_draws(self, step: int) -> list[Draw]:
        """The draws of a step in slot order."""
        phase, slot = self.locate_step(step)
        draws = self._draws_from(phase, slot)
        return [next(draws) for _ in range(self.phases[phase].sequences_per_step)]

    def _draws_from(self, phase: int, slot: int) -> Iterator[Draw]:
        counts = self.phases[phase].counts
        drawn = draws_before_slot(counts, slot)
        while True:
            source = next_source(counts, drawn)
            r = self._draws_before_phase[phase][source] + drawn[source]
            drawn[source] += 1
            size = self.sources[source].num_windows
            epoch, place = divmod(r, size)
            yield Draw(source, epoch, permute(self.epoch_keys(source, epoch), size, place))

    def epoch_keys(self, source: int, epoch: int) -> tuple[int, ...]:
        """Round keys of one epoch of a source.

        At the run's usual window length they are those of `order/1`: a run that goes on from another one, with a
        source left out or with longer windows later, reads on in the epochs that have begun.
        """
        name, length = self.sources[source].name, self.sources[source].window_tokens
        return round_keys(self.tokens_digest, self.seed, name, epoch, None if length == self.window_tokens else length)

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
        """Every step of this order that reads a window: at most one for each epoch that it reaches."""
        if not 0 <= source < len(self.sources) or not 0 <= window < self.sources[source].num_windows:
            raise DataError(f"source {source}, window {window}", expected="a window of one of the sources")
        size = self.sources[source].num_windows
        cumulative = [totals[source] for totals in self._draws_before_phase]
        steps = []
        for epoch in range(cumulative[0] // size, -(-cumulative[-1] // size)):
            r = epoch * size + permute_inverse(self.epoch_keys(source, epoch), size, window)
            if cumulative[0] <= r < cumulative[-1]:
                phase = bisect_right(cumulative, r) - 1
                slot = slot_of_draw(self.phases[phase].counts, source, r - cumulative[phase])
                steps.append(self._steps_before[phase] + slot // self.phases[phase].sequences_per_step + 1)
        return steps

    def as_json(self) -> dict[str, Json]:
        """The form of the ledger's `start` record, which adds the split, and to `order/1` the window length."""
        fields: dict[str, Json] = {
            "version": self.version,
            "tokens_digest": self.tokens_digest,
            "seed": self.seed,
            "sources": [source.as_json() for source in self.sources],
            "phases": [phase.as_json() for phase in self.phases],
        }
        if self.version == ORDER_2:
            fields |= {"window_tokens": self.window_tokens, "first_step": self.first_step}
        return fields

    @classmethod
    def from_json(cls, value: Json) -> "Order":
        """Read what `as_json` wrote; the ledger's further keys are left to the caller.

        A ledger may state an order that a file gives: `read_order` of `data_recipes.order_file` reads any.

        Raises:
            DataError: for a version that is no formula, or a malformed value.
        """
        version = value.get("version") if isinstance(value, dict) else type(value).__name__
        if version not in FORMULAS:
            raise DataError(f"order of version {version!r}", expected=" or ".join(FORMULAS))
        try:
            order = _read_order_1(value) if version == ORDER_1 else _read_order_2(value)
            is_same = all(value[key] == found for key, found in order.as_json().items())
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"malformed order ({error!r})", expected=f"the fields of {version}") from error
        if not is_same:
            raise DataError("an order whose fields have other types or extra keys", expected=str(version))
        return order


def _read_order_1(value: Json) -> Order:
    sources = tuple(OrderSource(str(item["name"]), int(item["num_windows"])) for item in value["sources"])
    phases = tuple(
        Phase(int(item["num_steps"]), int(item["sequences_per_step"]), tuple(map(int, item["counts"])))
        for item in value["phases"]
    )
    return Order(str(value["tokens_digest"]), int(value["seed"]), sources, phases)


def _read_order_2(value: Json) -> Order:
    sources = tuple(
        OrderSource(str(item["name"]), *(int(item[key]) for key in ("num_windows", "window_tokens", "draws_before")))
        for item in value["sources"]
    )
    phases = tuple(
        Phase(
            int(item["num_steps"]),
            int(item["sequences_per_step"]),
            tuple(map(int, item["counts"])),
            int(item["window_tokens"]),
        )
        for item in value["phases"]
    )
    start = int(value["window_tokens"]), int(value["first_step"])
    return Order(str(value["tokens_digest"]), int(value["seed"]), sources, phases, *start)
