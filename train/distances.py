"""How far apart two states of a model are, tensor by tensor and as a whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from provenance.canonical import Json, hex_float
from provenance.errors import ArtifactError


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


def distance_between(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> StateDistance:
    """Compare two sets of whole named tensors in float64.

    Raises:
        ArtifactError: when names or shapes differ.
    """
    if set(one) != set(other):
        names = sorted(set(one) ^ set(other))
        raise ArtifactError(f"tensors that only one of two states has: {names[:3]}", expected="the same names")
    tensors, squares = {}, [0.0, 0.0, 0.0]
    for name in sorted(one):
        if one[name].shape != other[name].shape:
            found, expected = (str(tuple(state[name].shape)) for state in (one, other))
            raise ArtifactError(f"{name} of shape {found}", expected=expected)
        a, b = one[name].detach().to(torch.float64), other[name].detach().to(torch.float64)
        parts = [float(value.square().sum()) for value in (a - b, a, b)]
        tensors[name] = _relative(*parts)
        squares = [total + part for total, part in zip(squares, parts, strict=True)]
    return StateDistance(_relative(*squares), tensors)


def _relative(difference: float, one: float, other: float) -> float:
    if math.isnan(difference) or not math.isfinite(one + other):
        return math.nan
    largest = max(one, other)
    return math.sqrt(difference / largest) if largest else 0.0
