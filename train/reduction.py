"""Exact reduction: one fixed binary tree over the logical replicas, at every layout of processes.

A step's batch is cut into `num_logical_replicas` parts, numbered from 0. The tree adds neighbours, (0 + 1), (2 + 3)
and so on, then the sums of those. Floating-point addition is commutative, so only the shape of the tree matters, and
the shape never changes with the layout:

* A row of the grid of processes computes a contiguous, aligned block of parts. Pass `j` of a row of `S` processes
  computes the parts `j*S .. j*S + S-1` of the block, one on each; with sharding, their gradients meet in the
  reduce-scatter, which adds them in the tree (its lowest levels). Every process adds the passes in a binary counter.
* Rows then combine their blocks once per step: each process adds its slice of all rows' sums in the tree, and the
  slices are gathered. Two rows are one addition per element, which any all-reduce does with the same bits.

The gradient norm is an exact sum in integers: independent of any order. Legend: N elements.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter

from provenance.errors import TrainingError
from train.layout import Layout, World

_BLOCK_ELEMENTS = 32_768  # both work arrays of a block stay in a core's cache
_DEVICE_BLOCK_ELEMENTS = 2**22  # GPUs want few and large kernels
_FRACTION_BITS = 30
BUCKET_ELEMENTS = 4 * 2**20


def own_replicas(layout: Layout, num_logical_replicas: int) -> list[int]:
    """Logical replicas that this process computes, in the order of its passes.

    Raises:
        TrainingError: when the layout does not fit the number of replicas.
    """
    world, shards = layout.world, layout.shard_size
    if world.size & (world.size - 1) or shards & (shards - 1) or world.size > num_logical_replicas:
        raise TrainingError(
            f"{world.size} processes in rows of {shards}",
            expected=f"powers of two, up to num_logical_replicas = {num_logical_replicas} processes in all",
            next_command="set execution.num_processes and execution.shard_size, or reduction: native",
        )
    block = num_logical_replicas // layout.num_replicas
    first = layout.replica * block + layout.shard
    return list(range(first, first + block - layout.shard, shards))


class TreeSum:
    """Adds lists of tensors in a binary tree as they come (a binary counter of partial sums)."""

    def __init__(self) -> None:
        self._levels: list[list[torch.Tensor] | None] = []

    def push(self, tensors: list[torch.Tensor]) -> None:
        """Add one more list; the counter keeps at most one partial sum per level and adds into the older one."""
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


def tree_sum(values: Sequence[float]) -> float:
    """Sum float64 values in the tree of the logical replicas; their number is a power of two."""
    level = list(values)
    while len(level) > 1:
        level = [level[i] + level[i + 1] for i in range(0, len(level), 2)]
    return level[0]


class TreeReduceScatter(ReduceScatter):
    """The reduce-scatter that `fully_shard` calls in the backward pass, adding processes in the tree."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return memory for an input or output."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        """Put this process's slice of the sum into `output_tensor`; the order of processes is that of replicas."""
        received_N = torch.empty_like(input_tensor)
        dist.all_to_all_single(received_N, input_tensor, group=group)
        output_tensor.copy_(_add_chunks(received_N, group.size()))


def _add_chunks(received_N: torch.Tensor, num_chunks: int) -> torch.Tensor:
    tree = TreeSum()
    for chunk in received_N.chunk(num_chunks):
        tree.push([chunk])
    return tree.total()[0]


class ReplicaReducer:
    """Adds the gradients of all rows of the grid, bucket by bucket, and finds the norm of the sum.

    Buckets are fixed runs of parameters, so that a bucket can be on its way while the backward pass still computes the
    next one. The sums come back in the memory from which the gradients were sent.

    Args:
        sizes: elements that this process holds of each parameter, in the order in which gradients become ready.
        layout: the grid.
    """

    def __init__(self, sizes: Sequence[int], layout: Layout) -> None:
        self._layout = layout
        self._buckets = _buckets(sizes, BUCKET_ELEMENTS)
        self._pending: list[_Exchange] = []

    @property
    def buckets(self) -> list[range]:
        """Positions of the parameters of each bucket."""
        return self._buckets

    def send(self, gradients: Sequence[torch.Tensor]) -> None:
        """Start the exchange of the next bucket; called once per bucket, in order.

        Args:
            gradients: this row's sums for the bucket's parameters; they are copied.
        """
        rows, group = self._layout.num_replicas, self._layout.replicate_group
        num_elements = sum(gradient.numel() for gradient in gradients)
        flat_N = torch.empty(math.ceil(num_elements / rows) * rows, device=self._layout.world.device)
        torch.cat([gradient.reshape(-1) for gradient in gradients], out=flat_N[:num_elements])
        flat_N[num_elements:] = 0.0
        received_N = None
        if rows == 2:
            work = dist.all_reduce(flat_N, group=group, async_op=True)
        else:
            received_N = torch.empty_like(flat_N)
            work = dist.all_to_all_single(received_N, flat_N, group=group, async_op=True)
        self._pending.append(_Exchange(flat_N, received_N, work, [gradient.shape for gradient in gradients]))

    def receive(self) -> tuple[list[torch.Tensor], float]:
        """Finish all buckets.

        Returns:
            The sums over all rows, one tensor per parameter in the order of `sizes`, and their norm.

        Raises:
            TrainingError: when a gradient is not finite.
        """
        rows, group = self._layout.num_replicas, self._layout.replicate_group
        own_chunks, sums = [], []
        for exchange in self._pending:
            exchange.work.wait()
            if exchange.received is None:
                own_chunks.append(exchange.sent.chunk(rows)[self._layout.replica])
            else:
                own_chunks.append(_add_chunks(exchange.received, rows))
        # Before anything is gathered: on busy cores the two together take longer than one after the other.
        norm = exact_norm(own_chunks, self._layout.world)
        for exchange, own_N in zip(self._pending, own_chunks, strict=True):
            if exchange.received is not None:
                dist.all_gather_single(exchange.sent, own_N, group=group)
            first = 0
            for shape in exchange.shapes:
                sums.append(exchange.sent[first : first + shape.numel()].view(shape))
                first += shape.numel()
        self._pending = []
        return sums, norm


@dataclass(frozen=True)
class _Exchange:
    """A bucket on its way.

    Attributes:
        sent: what was sent, where the sum comes back.
        received: this row's slice of all rows' sums, to be added; None where the backend adds.
        work: what to wait for.
        shapes: of its gradients.
    """

    sent: torch.Tensor
    received: torch.Tensor | None
    work: dist.Work
    shapes: list[torch.Size]


def _buckets(sizes: Sequence[int], most_elements: int) -> list[range]:
    """Cut parameters into runs of at most so many elements, or of one parameter."""
    buckets, first, held = [], 0, 0
    for place, size in enumerate(sizes):
        if place > first and held + size > most_elements:
            buckets.append(range(first, place))
            first, held = place, 0
        held += size
    return [*buckets, range(first, len(sizes))]


def exact_norm(shards: Sequence[torch.Tensor], world: World) -> float:
    """Euclidean norm over fp32 tensors that together, over all processes, hold each element once.

    Every element is scaled by a power of two so that the largest lies in [0.5, 1), squared without error in float64,
    and added as an integer of 2 * 30 fraction bits: the result does not depend on order or layout. Exact up to 2**33
    elements.

    Raises:
        TrainingError: when an element is infinite or not a number.
    """
    largest = float(world.all_reduce(_largest(shards, world.device), largest=True))
    if not math.isfinite(largest):
        raise TrainingError("a gradient is infinite or not a number", expected="finite gradients")
    if largest == 0.0:
        return 0.0
    exponent = math.frexp(largest)[1]
    sums = world.all_reduce(_square_sums(shards, exponent, world.device))
    total = (int(sums[0]) << _FRACTION_BITS) + int(sums[1])
    return math.ldexp(math.sqrt(total), exponent - _FRACTION_BITS)


def _largest(shards: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Largest absolute value, float64 of shape [1]; infinite where an element is not a number."""
    shards = [shard for shard in shards if shard.numel()]
    peaks = [torch.zeros((), device=device)]
    if device.type == "cpu":
        for shard in shards:
            peaks += torch.aminmax(shard)
    elif shards:
        peaks += torch._foreach_norm(shards, math.inf)  # few kernels for all tensors; on CPUs it is slow
    # NaN loses comparisons, so it is made infinite before the maximum over processes.
    return torch.stack(peaks).double().abs().nan_to_num(nan=math.inf, posinf=math.inf).max().reshape(1)


def _square_sums(shards: Sequence[torch.Tensor], exponent: int, device: torch.device) -> torch.Tensor:
    """Integer parts and next fraction bits of the scaled squares, summed: int64 of shape [2].

    Times 2**60 a scaled square is exact in float64 and, rounded down, an integer of 60 bits: the upper 30 are the
    integer part. The sum of these integers wraps; that of their upper bits does not, and what it leaves of the other
    one, the sum of the lower bits, is below 2**63.
    """
    block_elements = _BLOCK_ELEMENTS if device.type == "cpu" else _DEVICE_BLOCK_ELEMENTS
    scale = 2.0 ** (2 * (_FRACTION_BITS - exponent))
    squares_N = torch.empty(block_elements, dtype=torch.float64, device=device)
    integers_N = torch.empty(block_elements, dtype=torch.int64, device=device)
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    sums = list(torch.zeros(2, dtype=torch.int64, device=device))
    for block_N in _blocks(shards, device, block_elements):
        square_N, integer_N = squares_N[: block_N.numel()], integers_N[: block_N.numel()]
        if device.type == "cpu":  # GPUs convert as they multiply
            block_N = square_N.copy_(block_N)
        torch.addcmul(zero, block_N, block_N, value=scale, out=square_N)
        integer_N.copy_(square_N)  # rounds down
        sums += [integer_N.sum(), integer_N.bitwise_right_shift_(_FRACTION_BITS).sum()]
    whole, high = torch.stack(sums).view(-1, 2).sum(0)
    return torch.stack([high, whole - (high << _FRACTION_BITS)])


def _blocks(shards: Sequence[torch.Tensor], device: torch.device, block_elements: int) -> Iterator[torch.Tensor]:
    """All elements in flat blocks; on GPUs small tensors are put together."""
    flat = [shard.reshape(-1) for shard in shards]
    for run in _buckets([shard_N.numel() for shard_N in flat], 0 if device.type == "cpu" else block_elements):
        if len(run) == 1:
            yield from torch.split(flat[run[0]], block_elements)
        elif run:
            yield torch.cat([flat[place] for place in run])
