"""Exact reduction (replicated form): one fixed binary tree over the logical replicas, at every world size.

A step's batch is cut into `num_logical_replicas` parts. Process `r` of `W` computes the contiguous parts
`r*n .. r*n+n-1` one after another and adds their gradients in a binary counter, which is the lower part of the tree;
across processes each rank adds its slice of all partial sums in the same tree. Floating-point addition is
commutative, so only the shape of the tree matters, and the shape never changes with `W`.

The gradient norm is an exact sum in integers: independent of any order. Legend: N elements, W processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from provenance.errors import TrainingError

_BLOCK_ELEMENTS = 65_536
_FRACTION_BITS = 30


@dataclass(frozen=True)
class World:
    """The processes of a job; a job of one process uses no communication at all."""

    rank: int = 0
    size: int = 1

    def all_reduce(self, tensor: torch.Tensor, *, largest: bool = False) -> torch.Tensor:
        """Sum (or maximum) over processes, in place. Only for values whose sum is exact in any order."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return tensor


def own_replicas(world: World, num_logical_replicas: int) -> range:
    """Logical replicas that this process computes.

    Raises:
        TrainingError: when the world size is not a power of two up to the number of replicas.
    """
    if world.size & (world.size - 1) or world.size > num_logical_replicas:
        raise TrainingError(
            f"{world.size} processes",
            expected=f"a power of two up to num_logical_replicas = {num_logical_replicas}",
            next_command="set execution.num_processes",
        )
    share = num_logical_replicas // world.size
    return range(world.rank * share, (world.rank + 1) * share)


class TreeSum:
    """Adds lists of tensors in a binary tree as they come (a binary counter of partial sums)."""

    def __init__(self) -> None:
        self._levels: list[list[torch.Tensor] | None] = []

    def push(self, tensors: list[torch.Tensor]) -> None:
        """Add one more list; the counter keeps at most one partial sum per level."""
        carry = tensors
        for level, held in enumerate(self._levels):
            if held is None:
                self._levels[level] = carry
                return
            torch._foreach_add_(held, carry)
            carry = held
            self._levels[level] = None
        self._levels.append(carry)

    def total(self) -> list[torch.Tensor]:
        """Return the sum; the number of pushed lists must have been a power of two."""
        held = [level for level in self._levels if level is not None]
        assert len(held) == 1, "the number of logical replicas per process is a power of two"
        self._levels = []
        return held[0]


class GradientReducer:
    """Sums gradients over processes and finds their exact norm.

    Args:
        parameters: trainable parameters in a fixed order.
        world: the processes of the job.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], world: World) -> None:
        self._shapes = [parameter.shape for parameter in parameters]
        self._sizes = [parameter.numel() for parameter in parameters]
        self._world = world
        padded = math.ceil(sum(self._sizes) / world.size) * world.size
        self._flat_N = torch.zeros(padded)
        self._received_N = torch.zeros(padded if world.size > 1 else 0)

    def reduce(self, partial_sums: list[torch.Tensor]) -> tuple[list[torch.Tensor], float]:
        """Return the gradients of the whole batch and their norm; every process gets the same bits.

        Args:
            partial_sums: this process's tree sum, one tensor per parameter.

        Raises:
            TrainingError: when a gradient is not finite.
        """
        world = self._world
        if world.size == 1:
            norm = exact_norm([gradient.reshape(-1) for gradient in partial_sums], world)
            return partial_sums, norm
        flat_N = self._flat_N
        torch.cat([part.reshape(-1) for part in partial_sums], out=flat_N[: sum(self._sizes)])
        dist.all_to_all_single(self._received_N, flat_N)
        tree = TreeSum()
        for chunk in self._received_N.chunk(world.size):
            tree.push([chunk])
        own_chunk = tree.total()[0]
        norm = exact_norm([own_chunk], world)
        dist.all_gather_single(flat_N, own_chunk)
        pieces = torch.split(flat_N[: sum(self._sizes)], self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)], norm


def exact_norm(shards: Sequence[torch.Tensor], world: World) -> float:
    """Euclidean norm over flat fp32 tensors that together, over all processes, hold each element once.

    Every element is scaled by a power of two so that the largest lies in [0.5, 1), squared without error in float64,
    and added as an integer of 2 * 30 fraction bits: the result does not depend on order or layout. Exact up to 2**33
    elements.

    Raises:
        TrainingError: when an element is infinite or not a number.
    """
    peak = torch.zeros(1, dtype=torch.float64)
    for shard in shards:
        if shard.numel():
            low, high = torch.aminmax(shard)
            # NaN loses comparisons, so it is made infinite before the maximum over processes.
            peak = torch.maximum(
                peak, torch.nan_to_num(torch.maximum(-low, high).double(), nan=math.inf, posinf=math.inf)
            )
    largest = float(world.all_reduce(peak, largest=True))
    if not math.isfinite(largest):
        raise TrainingError("a gradient is infinite or not a number", expected="finite gradients")
    if largest == 0.0:
        return 0.0
    exponent = math.frexp(largest)[1]
    sums = torch.zeros(2, dtype=torch.int64)
    for shard in shards:
        for block_N in torch.split(shard, _BLOCK_ELEMENTS):
            sums += _square_sums(block_N, exponent)
    world.all_reduce(sums)
    total = (int(sums[0]) << _FRACTION_BITS) + int(sums[1])
    return math.ldexp(math.sqrt(total), exponent - _FRACTION_BITS)


def _square_sums(block_N: torch.Tensor, exponent: int) -> torch.Tensor:
    """Integer parts and next fraction bits of the scaled squares of a block, summed: int64 of shape [2]."""
    scaled_N = torch.ldexp(block_N.double(), torch.tensor(-exponent))
    squares_N = scaled_N.mul_(scaled_N).mul_(2.0**_FRACTION_BITS)
    high_N = squares_N.floor()
    low_N = squares_N.sub_(high_N).mul_(2.0**_FRACTION_BITS).floor_()
    return torch.stack([high_N.to(torch.int64).sum(), low_N.to(torch.int64).sum()])
