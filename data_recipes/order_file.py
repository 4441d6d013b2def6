"""An order that a file gives (`order/3`): the window that each place of a run reads, number after number.

For curricula that another program made, and for orders that are to be kept whatever becomes of a formula. The file is
raw little-endian integers without a header, data like any other: it is pinned by its sha256, copied into the run beside
the ledger, and carried in the bundle. `docs/formats.md` specifies it.
"""

import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.order import ORDER_3, Draw, Order, OrderSource, Phase
from provenance.canonical import Json
from provenance.digests import sha256_file
from provenance.errors import DataError

ORDER_FILE = "order.bin"
"""Name of the file beside the ledger of the run that reads it."""

ORDER_DTYPES: dict[str, np.dtype[Any]] = {"u32": np.dtype("<u4"), "u64": np.dtype("<u8")}
"""Types of the numbers, by the names that recipes have for them."""

_BLOCK = 1 << 20
_FEW = 8
"""Of fewer numbers than that, every second may be 0 without being the upper half of another."""

Shape = Sequence[tuple[int, int]]
"""Steps, and sequences per step, of each phase."""


@dataclass(frozen=True, kw_only=True)
class FileOrder(Order):
    """An order whose windows a file names; its epochs are all 0, and its counts those that the file happens to have.

    Attributes:
        dtype: a name of `ORDER_DTYPES`.
        sha256: of the file.
        numbers: window ids as those of `order/1`, one for each place of the run, and more than that if need be.
    """

    dtype: str
    sha256: str
    numbers: npt.NDArray[Any] = field(compare=False, repr=False)

    @property
    def version(self) -> str:
        """`order/3`."""
        return ORDER_3

    def numbers_of(self, step: int) -> npt.NDArray[np.uint64]:
        """The window ids of a step in slot order; raises as `locate_step`."""
        phase, slot = self.locate_step(step)
        first = self._first_sequences[phase] + slot
        return self.numbers[first : first + self.phases[phase].sequences_per_step].astype(np.uint64)

    def first_draws(self, phase: int, slot: int) -> list[int]:
        """As of any order; the places of the phase up to the slot are counted."""
        first = self._first_sequences[phase]
        within = count_draws(self.numbers, first, first + slot, self.sources)
        return [before + done for before, done in zip(self._draws_before_phase[phase], within, strict=True)]

    def _draws_from(self, phase: int, slot: int) -> Iterator[Draw]:
        first, end = self._first_sequences[phase] + slot, self._first_sequences[phase + 1]
        ends = _ends(self.sources)
        for begin in range(first, end, self.phases[phase].sequences_per_step):
            numbers = self.numbers[begin : min(end, begin + self.phases[phase].sequences_per_step)]
            sources = np.searchsorted(ends, numbers, side="right")
            for source, number in zip(sources.tolist(), numbers.tolist(), strict=True):
                yield Draw(source, 0, number - self.window_offsets[source])

    def steps_that_read(self, source: int, window: int) -> list[int]:
        """Every step that reads a window, each once; all of the file is looked through."""
        if not 0 <= source < len(self.sources) or not 0 <= window < self.sources[source].num_windows:
            raise DataError(f"source {source}, window {window}", expected="a window of one of the sources")
        number = self.window_offsets[source] + window
        steps: dict[int, None] = {}
        for begin in range(0, self.num_sequences, _BLOCK):
            block = self.numbers[begin : min(self.num_sequences, begin + _BLOCK)]
            for place in (begin + np.flatnonzero(block == number)).tolist():
                phase = bisect_right(self._first_sequences, place) - 1
                slot = place - self._first_sequences[phase]
                steps[self._steps_before[phase] + slot // self.phases[phase].sequences_per_step + 1] = None
        return list(steps)

    def as_json(self) -> dict[str, Json]:
        """The form of the ledger's `start` record, which adds the split and the window length."""
        return {
            "version": self.version,
            "tokens_digest": self.tokens_digest,
            "seed": self.seed,
            "sources": [source.as_json() for source in self.sources],
            "phases": [
                {"num_steps": phase.num_steps, "sequences_per_step": phase.sequences_per_step} for phase in self.phases
            ],
            "file": {"dtype": self.dtype, "sha256": self.sha256},
        }


def open_order(
    path: Path,
    *,
    dtype: str,
    sha256: str,
    tokens_digest: str,
    seed: int,
    sources: tuple[OrderSource, ...],
    shape: Shape,
) -> FileOrder:
    """Open an order file over the windows of a split; all of it is read once, to be checked and counted.

    Args:
        dtype: a name of `ORDER_DTYPES`.
        sha256: the digest that the file has to have.
        tokens_digest: digest `tokens/1` of the split.
        seed: seed of the recipe, which an order of this kind makes no use of.
        sources: sources of the split in file order.
        shape: the phases of the run.

    Raises:
        DataError: for a missing file, another one, one of another type or with a header, numbers that are no window,
            and fewer numbers than the phases read.
    """
    check_pin(path, sha256)
    numbers = map_numbers(path, dtype)
    needed = sum(num_steps * width for num_steps, width in shape)
    if len(numbers) < needed:
        raise _refuse(path, f"{len(numbers):,} windows", f"{needed:,} or more, as the phases read")
    _check_range(path, numbers, dtype, sources)
    phases, first = [], 0
    for num_steps, width in shape:
        end = first + num_steps * width
        phases.append(Phase(num_steps, width, tuple(count_draws(numbers, first, end, sources))))
        first = end
    return FileOrder(tokens_digest, seed, sources, tuple(phases), dtype=dtype, sha256=sha256, numbers=numbers)


def read_order(value: Json, run_dir: Path) -> Order:
    """The order that the start record of a ledger states.

    Args:
        value: its field `order`.
        run_dir: directory of the ledger, where the file of an `order/3` lies too.

    Raises:
        DataError: as `Order.from_json` and `open_order`.
    """
    if not isinstance(value, dict) or value.get("version") != ORDER_3:
        return Order.from_json(value)
    try:
        order = open_order(
            run_dir / ORDER_FILE,
            dtype=str(value["file"]["dtype"]),
            sha256=str(value["file"]["sha256"]),
            tokens_digest=str(value["tokens_digest"]),
            seed=int(value["seed"]),
            sources=tuple(OrderSource(str(item["name"]), int(item["num_windows"])) for item in value["sources"]),
            shape=[(int(item["num_steps"]), int(item["sequences_per_step"])) for item in value["phases"]],
        )
        is_same = all(value[key] == found for key, found in order.as_json().items())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"malformed order ({error!r})", expected=f"the fields of {ORDER_3}") from error
    if not is_same:
        raise DataError("an order whose fields have other types or extra keys", expected=ORDER_3)
    return order


def check_pin(path: Path, sha256: str) -> None:
    """Refuse an order file that is missing or not the pinned one.

    Raises:
        DataError: naming both digests.
    """
    found = sha256_file(path) if path.is_file() else "no file"
    if found != sha256:
        raise _refuse(path, found, f"an order file with sha256 {sha256}")


def keep_order(source: Path, sha256: str, run_dir: Path) -> Path:
    """Copy an order file to its place in a run, unless it is there already; returns the place.

    Raises:
        DataError: as `check_pin`.
    """
    target = run_dir / ORDER_FILE
    if not target.is_file():
        check_pin(source, sha256)
        shutil.copyfile(source, target.with_name(f".{ORDER_FILE}.tmp"))
        os.replace(target.with_name(f".{ORDER_FILE}.tmp"), target)
    return target


def count_draws(numbers: npt.NDArray[Any], first: int, end: int, sources: Sequence[OrderSource]) -> list[int]:
    """How many of the numbers from `first` on, before `end`, are windows of each source."""
    counts, ends = np.zeros(len(sources), np.int64), _ends(sources)
    for begin in range(first, end, _BLOCK):
        found = np.searchsorted(ends, numbers[begin : min(end, begin + _BLOCK)], side="right")
        counts += np.bincount(found, minlength=len(sources))
    return [int(count) for count in counts]


def _ends(sources: Sequence[OrderSource]) -> npt.NDArray[np.uint64]:
    """The window id after the last of each source."""
    return np.cumsum([source.num_windows for source in sources], dtype=np.uint64)


def map_numbers(path: Path, dtype: str) -> npt.NDArray[Any]:
    """Map a file of numbers, dtype being a name of `ORDER_DTYPES`.

    Raises:
        DataError: for one with a header of numpy's, an empty one, and one that is no whole number of them.
    """
    if dtype not in ORDER_DTYPES:
        raise _refuse(path, f"numbers of type {dtype!r}", f"one of {', '.join(ORDER_DTYPES)}")
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            told = "python -c \"import numpy; numpy.load('IN.npy').astype('<u4').tofile('OUT.bin')\" takes it off"
            raise _refuse(path, "a header of numpy's", "numbers from the first byte on, as OLMo-core writes them", told)
    size_bytes, item_bytes = path.stat().st_size, ORDER_DTYPES[dtype].itemsize
    if size_bytes == 0 or size_bytes % item_bytes:
        raise _refuse(path, f"{size_bytes:,} bytes", f"a whole number of {dtype}, {item_bytes} bytes each")
    numbers: npt.NDArray[Any] = np.memmap(path, ORDER_DTYPES[dtype], "r")
    return numbers


def _check_range(path: Path, numbers: npt.NDArray[Any], dtype: str, sources: Sequence[OrderSource]) -> None:
    """Refuse numbers that are no window, and what is plainly of another type."""
    num_windows = sum(source.num_windows for source in sources)
    is_wide = dtype == "u32" and len(numbers) >= _FEW
    for begin in range(0, len(numbers), _BLOCK):
        block = numbers[begin : begin + _BLOCK]
        is_wide = is_wide and not block[1::2].any()  # a block is of even length: the high halves of u64 are all 0
        beyond = np.flatnonzero(block >= num_windows)
        if len(beyond):
            place = begin + int(beyond[0])
            found = f"window {int(numbers[place]):,} at place {place:,}"
            raise _refuse(path, found, f"numbers below {num_windows:,}, the windows of the split, as {dtype}")
    if is_wide:
        raise _refuse(path, "every second number is 0, as where u64 are read as u32", "the dtype that the file has")


def _refuse(path: Path, found: str, expected: str, next_command: str = "") -> DataError:
    advice = f"put the pinned file there; a bundle has that of its run as model/training/STAGE/{ORDER_FILE}"
    return DataError(found, expected=expected, where=str(path), next_command=next_command or advice)
