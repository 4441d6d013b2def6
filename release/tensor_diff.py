"""Two checkpoints compared tensor by tensor, bit by bit; a few million elements are in memory at a time."""

import math
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenance.canonical import Json
from provenance.errors import BundleError
from release.weights import header_problem
from train.weight_files import read_header

_STEMS = ("model", "optimizer")
_CHUNK_ELEMENTS = 2**22
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_BITS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    size_bytes: int


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor differs between the recorded checkpoint and the replayed one.

    Attributes:
        problem: why elements cannot be compared (missing, other shape or type); the figures are then empty.
        num_differing: elements whose bits differ.
        num_not_finite: elements that are infinite or no number on either side; they are not in the distances.
        largest_difference: largest absolute difference; None where the type has no arithmetic here.
        relative_distance: L2 norm of the difference over that of the recorded tensor; None where that is 0.
        first_index: place of the first differing element, with the two values there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    problem: str = ""
    num_differing: int = 0
    num_not_finite: int = 0
    largest_difference: float | None = None
    relative_distance: float | None = None
    first_index: tuple[int, ...] = ()
    recorded_value: str = ""
    replayed_value: str = ""

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        if self.problem:
            return f"{self.name} ({self.dtype}, {shape}): {self.problem}"
        parts = [f"{self.num_differing:,} of {prod(self.shape):,} elements differ"]
        if self.num_not_finite:
            parts.append(f"{self.num_not_finite:,} are not finite")
        if self.largest_difference is not None:
            parts.append(f"largest difference {self.largest_difference:.3g}")
        if self.relative_distance is not None:
            parts.append(f"relative L2 distance {self.relative_distance:.3g}")
        place = ", ".join(map(str, self.first_index))
        parts.append(f"first at [{place}]: recorded {self.recorded_value}, replayed {self.replayed_value}")
        return f"{self.name} ({self.dtype}, {shape}): {', '.join(parts)}"

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "num_elements": prod(self.shape),
            "problem": self.problem,
            "num_differing": self.num_differing,
            "num_not_finite": self.num_not_finite,
            "largest_difference": self.largest_difference,
            "relative_distance": self.relative_distance,
            "first_index": list(self.first_index),
            "recorded_value": self.recorded_value,
            "replayed_value": self.replayed_value,
        }


@dataclass(frozen=True)
class TensorReport:
    """What comparing two checkpoints found.

    Attributes:
        step: step of the checkpoints.
        num_tensors: tensors that were compared.
        num_differing: how many of them differ.
        first: the first that differs, weights before optimizer state, layer by layer; None where all bits agree.
        farthest: the one with the largest relative distance.
    """

    step: int
    num_tensors: int
    num_differing: int
    first: TensorDifference | None
    farthest: TensorDifference | None

    def lines(self) -> list[str]:
        """The finding for people."""
        if self.first is None:
            told = f"all {self.num_tensors} tensors of the checkpoint at step {self.step} come out bit for bit:"
            return [told, "  the records were changed, or made another way, and the state was not"]
        lines = [
            f"checkpoint at step {self.step}: {self.num_differing} of {self.num_tensors} tensors differ",
            f"  first     {self.first}",
        ]
        if self.farthest is not None and self.farthest.name != self.first.name:
            lines.append(f"  farthest  {self.farthest}")
        return lines

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {
            "step": self.step,
            "num_tensors": self.num_tensors,
            "num_differing": self.num_differing,
            "first": self.first and self.first.as_json(),
            "farthest": self.farthest and self.farthest.as_json(),
        }


def compare_checkpoints(recorded: Path, replayed: Path, step: int) -> TensorReport:
    """Compare what both checkpoints hold: weights, and optimizer state where neither left it out.

    Raises:
        BundleError: for a file that is not safetensors.
    """
    num_tensors = num_differing = 0
    first: TensorDifference | None = None
    farthest: TensorDifference | None = None
    for difference in _differences(recorded, replayed):
        num_tensors += 1
        if difference is None:
            continue
        num_differing += 1
        first = first or difference
        distance, before = (d.relative_distance if d and d.relative_distance else 0.0 for d in (difference, farthest))
        farthest = difference if farthest is None or distance > before else farthest
    return TensorReport(step, num_tensors, num_differing, first, farthest)


def _differences(recorded: Path, replayed: Path) -> Iterator[TensorDifference | None]:
    """One value for each tensor, in order; None where its bits agree."""
    for stem in _STEMS:
        told, found = stored_tensors(recorded, stem), stored_tensors(replayed, stem)
        if not told or not found:
            continue
        for name in sorted({*told, *found}, key=_layer_by_layer):
            yield _compare(told.get(name), found.get(name))


def _layer_by_layer(name: str) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def stored_tensors(directory: Path, stem: str) -> dict[str, StoredTensor]:
    """Tensors of the files `<stem>*.safetensors` of a checkpoint, by name."""
    found = {}
    for path in sorted(directory.glob(f"{stem}*.safetensors")):
        problem = header_problem(path)
        if problem:
            raise BundleError(problem, expected="a safetensors file", where=str(path))
        header, start = read_header(path)
        for name, value in header.items():
            first, last = value["data_offsets"]
            shape = tuple(int(size) for size in value["shape"])
            found[name] = StoredTensor(name, str(value["dtype"]), shape, path, start + first, last - first)
    return found


def _compare(told: StoredTensor | None, found: StoredTensor | None) -> TensorDifference | None:
    if told is None or found is None:
        one = told or found
        assert one is not None
        where = "recorded checkpoint" if told is None else "replayed one"
        return TensorDifference(one.name, one.dtype, one.shape, f"not in the {where}")
    if (told.dtype, told.shape) != (found.dtype, found.shape):
        other = f"{found.dtype} of shape {list(found.shape)} in the replay"
        return TensorDifference(told.name, told.dtype, told.shape, other)
    return _compare_elements(told, found)


@dataclass
class _Tally:
    """Sums over the chunks of one tensor."""

    num_differing: int = 0
    num_not_finite: int = 0
    largest: float = 0.0
    squared_distance: float = 0.0
    squared_norm: float = 0.0
    first: int | None = None
    values: tuple[str, str] = ("", "")


def _compare_elements(told: StoredTensor, found: StoredTensor) -> TensorDifference | None:
    count = prod(told.shape)
    if count == 0:
        return None
    item_bytes, rest = divmod(told.size_bytes, count)
    if rest or item_bytes not in _BITS or found.size_bytes != told.size_bytes:
        raise BundleError(
            f"{told.name} has {told.size_bytes} bytes", expected=f"{count} elements", where=str(told.path)
        )
    tally = _Tally()
    with _opened(told.path) as left, _opened(found.path) as right:
        for begin in range(0, count, _CHUNK_ELEMENTS):
            here, size = begin * item_bytes, min(_CHUNK_ELEMENTS, count - begin) * item_bytes
            pair = [data[t.start + here : t.start + here + size] for data, t in ((left, told), (right, found))]
            _add_chunk(tally, pair[0], pair[1], told.dtype, item_bytes, begin)
    if tally.first is None:
        return None
    numeric = told.dtype in _DTYPES or told.dtype == "BF16"
    norm = math.sqrt(tally.squared_norm)
    return TensorDifference(
        name=told.name,
        dtype=told.dtype,
        shape=told.shape,
        num_differing=tally.num_differing,
        num_not_finite=tally.num_not_finite,
        largest_difference=tally.largest if numeric else None,
        relative_distance=math.sqrt(tally.squared_distance) / norm if numeric and norm else None,
        first_index=tuple(int(i) for i in np.unravel_index(tally.first, told.shape)) if told.shape else (),
        recorded_value=tally.values[0],
        replayed_value=tally.values[1],
    )


def _opened(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _add_chunk(tally: _Tally, left: bytes, right: bytes, dtype: str, item_bytes: int, begin: int) -> None:
    differs = np.frombuffer(left, _BITS[item_bytes]) != np.frombuffer(right, _BITS[item_bytes])
    told, found = _numbers(left, dtype), _numbers(right, dtype)
    if told is not None and found is not None:
        finite = np.isfinite(told) & np.isfinite(found)
        tally.num_not_finite += int(np.count_nonzero(~finite))
        distance = np.abs(np.where(finite, told, 0.0) - np.where(finite, found, 0.0))
        tally.largest = max(tally.largest, float(distance.max()))
        tally.squared_distance += float(np.dot(distance, distance))
        norm = np.where(finite, told, 0.0)
        tally.squared_norm += float(np.dot(norm, norm))
    if not differs.any():
        return
    tally.num_differing += int(np.count_nonzero(differs))
    if tally.first is None:
        at = int(np.argmax(differs))
        tally.first = begin + at
        tally.values = (_shown(told, left, at, item_bytes), _shown(found, right, at, item_bytes))


def _numbers(data: bytes, dtype: str) -> NDArray[np.float64] | None:
    """Elements as float64; None for a type that numpy does not know."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, _DTYPES[dtype]).astype(np.float64) if dtype in _DTYPES else None


def _shown(numbers: NDArray[Any] | None, data: bytes, at: int, item_bytes: int) -> str:
    raw = data[at * item_bytes : (at + 1) * item_bytes]
    return f"{float(numbers[at])!r}" if numbers is not None else raw[::-1].hex()
