"""How far apart two states of a model are, tensor by tensor and as a whole; no torch, a tensor in memory at a time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from provenance.canonical import Json, hex_float
from provenance.errors import ArtifactError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class StateDistance:
    """Relative distances between two sets of tensors of the same names and shapes.

    A distance is the Euclidean norm of the difference over the larger of the two norms: 0 for equal values (signed
    zeros count as equal), about 1 for unrelated ones, 2 at most; NaN where a value is not finite.

    Attributes:
        overall: distance of all tensors taken as one vector.
        tensors: distance of each tensor.
    """

    overall: float
    tensors: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest distance of any tensor; NaN where there is one."""
        values = self.tensors.values()
        return math.nan if any(math.isnan(value) for value in values) else max(values, default=0.0)

    def as_json(self) -> dict[str, Json]:
        """Both in the form in which files hold them."""
        tensors: dict[str, Json] = {name: hex_float(value) for name, value in sorted(self.tensors.items())}
        return {"overall": hex_float(self.overall), "tensors": tensors}


def distance_between(one: Arrays, other: Arrays) -> StateDistance:
    """Compare two sets of whole named tensors in float64.

    Raises:
        ArtifactError: when names or shapes differ.
    """
    if set(one) != set(other):
        names = sorted(set(one) ^ set(other))
        raise ArtifactError(f"tensors that only one of two states has: {names[:3]}", expected="the same names")
    tensors, squares = {}, [0.0, 0.0, 0.0]
    for name in sorted(one):
        pair = one[name], other[name]
        if pair[0].shape != pair[1].shape:
            raise ArtifactError(f"{name} of shape {pair[0].shape}", expected=str(pair[1].shape))
        a, b = (array.astype(np.float64).reshape(-1) for array in pair)
        with np.errstate(invalid="ignore", over="ignore"):
            parts = [float(np.dot(value, value)) for value in (a - b, a, b)]
        tensors[name] = _relative(*parts)
        squares = [total + part for total, part in zip(squares, parts, strict=True)]
    return StateDistance(_relative(*squares), tensors)


def _relative(difference: float, one: float, other: float) -> float:
    if not math.isfinite(difference + one + other):
        return math.nan
    largest = max(one, other)
    return math.sqrt(difference / largest) if largest else 0.0


class StoredArrays(Mapping[str, NDArray[Any]]):
    """Tensors of a checkpoint's `model` or `optimizer` files by name, each read when it is asked for.

    Raises:
        ArtifactError: for a file that is not safetensors, when it is opened or read.
    """

    def __init__(self, directory: Path, stem: str) -> None:
        self._files: dict[str, Path] = {}
        for path in sorted(directory.glob(f"{stem}*.safetensors")):
            try:
                with safe_open(path, framework="np") as file:
                    self._files.update(dict.fromkeys(file.keys(), path))
            except SafetensorError as error:
                raise ArtifactError(str(error), expected="a safetensors file", where=str(path)) from None

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            with safe_open(self._files[name], framework="np") as file:
                array: NDArray[Any] = file.get_tensor(name)
        except SafetensorError as error:
            raise ArtifactError(str(error), expected="a tensor", where=str(self._files[name])) from None
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
