"""How a job is laid out over processes, and which part of each tensor a process holds.

The processes form a grid of `num_replicas` rows and `shard_size` columns, in rank order. A row holds one whole copy of
the model, cut into `shard_size` parts along the first dimension of every tensor (torch `fully_shard`). With one column
every process holds everything; with one row nothing is held twice.

With tensor parallelism a place of the grid is taken by `tensor_size` processes with neighbouring ranks instead of one:
the matrices of the layers are cut among them first, by rows or by columns, and each of these pieces is sharded over the
columns of the grid by its rows. What is not cut, such as norms, all of them hold.

A place of the grid reads windows of its own. With context parallelism `context_size` neighbouring places of a row read
the same ones, and each computes a stretch of their positions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from provenance.errors import TrainingError

REPLICATE, SHARD, TENSOR = "replicate", "shard", "tensor"


@dataclass(frozen=True)
class World:
    """The processes of a job; a job of one process uses no communication at all."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def all_reduce(self, tensor: torch.Tensor, *, largest: bool = False) -> torch.Tensor:
        """Sum (or maximum) over processes, in place. Only for values whose sum is exact in any order."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return tensor

    def barrier(self) -> None:
        """Wait for all processes."""
        self.all_reduce(torch.zeros(1, dtype=torch.int64, device=self.device))


@dataclass(frozen=True)
class Layout:
    """A grid of processes.

    Attributes:
        world: all processes.
        shard_size: columns of the grid.
        mesh: the grid, with dimensions `replicate` and `shard`, and `tensor` where `tensor_size` is more than 1; None
            for one process that shards nothing.
        tensor_size: processes at a place of the grid.
        copy_group: processes that hold this process's copy of the model; None without a process group.
        context_size: neighbouring places of a row that read the same windows.
        context_group: the processes with this process's number at those places; None where there is one place.
    """

    world: World
    shard_size: int = 1
    mesh: DeviceMesh | None = None
    tensor_size: int = 1
    copy_group: Any = None
    context_size: int = 1
    context_group: Any = None

    @property
    def num_replicas(self) -> int:
        """Copies of the model."""
        return self.world.size // self.copy_size

    @property
    def replica(self) -> int:
        """Number of the copy that this process is part of."""
        return self.world.rank // self.copy_size

    @property
    def shard(self) -> int:
        """Column of the grid."""
        return self.place % self.shard_size

    @property
    def tensor(self) -> int:
        """Number of this process among those at its place of the grid."""
        return self.world.rank % self.tensor_size

    @property
    def copy_size(self) -> int:
        """Processes that share one copy of the model."""
        return self.shard_size * self.tensor_size

    @property
    def place(self) -> int:
        """Place of the grid, counted row by row."""
        return self.world.rank // self.tensor_size

    @property
    def reader(self) -> int:
        """Number of those that read this process's windows, among all that read different ones."""
        return self.place // self.context_size

    @property
    def num_readers(self) -> int:
        """How many read different windows."""
        return self.world.size // (self.tensor_size * self.context_size)

    @property
    def stretch(self) -> int:
        """Number of the stretch of its windows that this process computes."""
        return self.place % self.context_size

    @property
    def grid(self) -> DeviceMesh:
        """The mesh of rows and columns to which this process belongs."""
        assert self.mesh is not None
        return self.mesh if self.tensor_size == 1 else self.mesh[(REPLICATE, SHARD)]

    @property
    def replicate_group(self) -> Any:
        """Processes that hold the same part as this one, one of every copy."""
        assert self.mesh is not None
        return self.mesh[REPLICATE].get_group()

    @property
    def shard_group(self) -> Any:
        """Processes of this row of the grid; with tensor parallelism, those that hold the same pieces of matrices."""
        assert self.mesh is not None
        return self.mesh[SHARD].get_group()

    @property
    def tensor_group(self) -> Any:
        """Processes at this process's place of the grid."""
        assert self.mesh is not None
        return self.mesh[TENSOR].get_group()


def make_layout(world: World, shard_size: int, tensor_size: int = 1, context_size: int = 1) -> Layout:
    """Lay processes out in rows of `shard_size` places with `tensor_size` each; all processes call it at the same time.

    Args:
        context_size: neighbouring places that read the same windows; divides `shard_size`.

    Raises:
        TrainingError: when the processes do not fill whole rows.
    """
    copy_size = shard_size * tensor_size
    if world.size % copy_size:
        raise TrainingError(
            f"{world.size} processes in rows of {copy_size}",
            expected="a number of processes that divides by execution.shard_size times execution.tensor_size",
            next_command="set execution.num_processes",
        )
    if not dist.is_initialized():
        return Layout(world, shard_size)
    kind, num_rows = world.device.type, world.size // copy_size
    context_group = _context_group(world, tensor_size, context_size)
    if tensor_size == 1:
        mesh = init_device_mesh(kind, (num_rows, shard_size), mesh_dim_names=(REPLICATE, SHARD))
        return Layout(world, shard_size, mesh, 1, mesh[SHARD].get_group(), context_size, context_group)
    mesh = init_device_mesh(kind, (num_rows, shard_size, tensor_size), mesh_dim_names=(REPLICATE, SHARD, TENSOR))
    rows = [list(range(row * copy_size, (row + 1) * copy_size)) for row in range(num_rows)]
    return Layout(world, shard_size, mesh, tensor_size, _own_group(rows), context_size, context_group)


def _context_group(world: World, tensor_size: int, context_size: int) -> Any:
    """The processes that share this one's windows, each with a stretch of them."""
    if context_size == 1:
        return None
    block = tensor_size * context_size
    firsts = [start + tensor for start in range(0, world.size, block) for tensor in range(tensor_size)]
    return _own_group([list(range(first, first + block, tensor_size)) for first in firsts])


def _own_group(groups: list[list[int]]) -> Any:
    """Make groups of processes that hold each process once; returns the one with this process."""
    own, _ = dist.new_subgroups_by_enumeration(groups)  # type: ignore[no-untyped-call]
    return own


@dataclass(frozen=True)
class Part:
    """What this process holds of one named tensor: a contiguous range of rows of its first dimension.

    Attributes:
        name: name of the tensor.
        tensor: the rows held; for a parameter or buffer its live memory, so that changes in place reach the model.
            May have no rows at all.
        shape: shape of the whole tensor.
        first_row: number of the first row held.
        is_sharded: whether the columns of the grid hold different rows. All processes agree on it; shapes do
            not tell, since one process may hold all rows of a short tensor and the others none.
        cut: dimension along which the processes at a place of the grid hold different pieces: 0, rows, or 1, columns
            of a matrix; None where they all hold the same.
        first_column: number of the first column held, where columns are cut.
    """

    name: str
    tensor: torch.Tensor
    shape: tuple[int, ...]
    first_row: int = 0
    is_sharded: bool = False
    cut: int | None = None
    first_column: int = 0

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def first_element(self) -> int:
        """Number of the first element held, in the flat order of the whole tensor."""
        return self.first_row * math.prod(self.shape[1:])

    @property
    def held(self) -> tuple[slice, ...]:
        """Index of what is held, in the whole tensor."""
        rows = slice(self.first_row, self.first_row + self.tensor.shape[0])
        if self.cut != 1:
            return (rows,)
        return rows, slice(self.first_column, self.first_column + self.tensor.shape[1])

    def like(self, name: str, tensor: torch.Tensor) -> "Part":
        """The same range of another tensor of the same shape, such as an optimizer's state."""
        return replace(self, name=name, tensor=tensor)

    def counts_at(self, layout: Layout) -> bool:
        """Whether this process counts where each element of a row of the grid is to count once."""
        return self.cut is not None or layout.tensor == 0


@dataclass(frozen=True)
class Piece:
    """What one process of a row of the grid holds of a tensor.

    Attributes:
        shard, tensor: column of the grid and number at that place.
        rows: range of the first dimension.
        columns: range of the second dimension, all of it where columns are not cut.
    """

    shard: int
    tensor: int
    rows: slice
    columns: slice

    @property
    def size(self) -> int:
        """Rows times columns."""
        return int((self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start))


def pieces(part: Part, layout: Layout) -> Iterator[Piece]:
    """All pieces of a tensor in a row of the grid, in the order of its rows; those that other processes hold too once
    for each of them."""
    num_rows, num_columns = (*part.shape, 1, 1)[:2]
    columns = slice(0, num_columns)
    for tensor in range(layout.tensor_size):
        first, end = (0, num_rows) if part.cut != 0 else shard_rows(num_rows, tensor, layout.tensor_size)
        if part.cut == 1:
            columns = slice(*shard_rows(num_columns, tensor, layout.tensor_size))
        for shard in range(layout.shard_size):
            held = shard_rows(end - first, shard, layout.shard_size) if part.is_sharded else (0, end - first)
            yield Piece(shard, tensor, slice(first + held[0], first + held[1]), columns)


def shard_rows(num_rows: int, shard: int, shard_size: int) -> tuple[int, int]:
    """The first row that a process of a row of the grid holds of a tensor, and the one after its last."""
    chunk = -(-num_rows // shard_size)  # as torch.chunk cuts: full chunks first, then what is left
    return min(num_rows, shard * chunk), min(num_rows, (shard + 1) * chunk)


def part_of(name: str, tensor: torch.Tensor, layout: Layout) -> Part:
    """Describe what this process holds of a parameter or buffer of the model."""
    if not isinstance(tensor, DTensor):
        return Part(name, tensor.detach(), tuple(tensor.shape))
    is_sharded = layout.shard_size > 1 and SHARD in (tensor.device_mesh.mesh_dim_names or ())
    part = Part(name, tensor.to_local().detach(), tuple(tensor.shape), 0, is_sharded, cut_of(tensor))
    own = next(piece for piece in pieces(part, layout) if (piece.shard, piece.tensor) == (layout.shard, layout.tensor))
    first_column = own.columns.start if part.cut == 1 else 0
    return replace(part, first_row=own.rows.start, first_column=first_column)


def cut_of(tensor: torch.Tensor) -> int | None:
    """The dimension along which the processes at a place of the grid hold different pieces of a tensor, if any."""
    if not isinstance(tensor, DTensor) or TENSOR not in (tensor.device_mesh.mesh_dim_names or ()):
        return None
    placement = tensor.placements[(tensor.device_mesh.mesh_dim_names or ()).index(TENSOR)]
    if not isinstance(placement, Shard):
        return None
    dimension = placement.dim % tensor.dim()
    assert dimension in (0, 1), f"cut along dimension {dimension}"
    return dimension
