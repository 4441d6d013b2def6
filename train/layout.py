"""How a job is laid out over processes, and which part of each tensor a process holds.

The processes form a grid of `num_replicas` rows and `shard_size` columns, in rank order. A row holds one whole copy of
the model, cut into `shard_size` parts along the first dimension of every tensor (torch `fully_shard`). With one column
every process holds everything; with one row nothing is held twice.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from provenance.errors import TrainingError

REPLICATE, SHARD = "replicate", "shard"


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
        shard_size: processes that share one copy of the model.
        mesh: the grid, with dimensions `replicate` and `shard`; None for one process that shards nothing.
    """

    world: World
    shard_size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def num_replicas(self) -> int:
        """Copies of the model."""
        return self.world.size // self.shard_size

    @property
    def replica(self) -> int:
        """Number of the copy that this process is part of."""
        return self.world.rank // self.shard_size

    @property
    def shard(self) -> int:
        """Number of this process's part of its copy."""
        return self.world.rank % self.shard_size

    @property
    def replicate_group(self) -> Any:
        """Processes that hold the same part as this one, one of every copy."""
        assert self.mesh is not None
        return self.mesh[REPLICATE].get_group()

    @property
    def shard_group(self) -> Any:
        """Processes that hold this process's copy."""
        assert self.mesh is not None
        return self.mesh[SHARD].get_group()


def make_layout(world: World, shard_size: int) -> Layout:
    """Lay processes out in rows of `shard_size`; called by every process at the same time.

    Raises:
        TrainingError: when the processes do not fill whole rows.
    """
    if world.size % shard_size:
        raise TrainingError(
            f"{world.size} processes in rows of {shard_size}",
            expected="a number of processes that divides by execution.shard_size",
            next_command="set execution.num_processes",
        )
    if not dist.is_initialized():
        return Layout(world, shard_size)
    shape = (world.size // shard_size, shard_size)
    return Layout(world, shard_size, init_device_mesh(world.device.type, shape, mesh_dim_names=(REPLICATE, SHARD)))


@dataclass(frozen=True)
class Part:
    """What this process holds of one named tensor: a contiguous range of rows of its first dimension.

    Attributes:
        name: name of the tensor.
        tensor: the rows held; for a parameter or buffer its live memory, so that changes in place reach the model.
            May have no rows at all.
        shape: shape of the whole tensor.
        first_row: number of the first row held.
        is_sharded: whether the processes of a row of the grid hold different rows. All of them agree on it; shapes do
            not tell, since one process may hold all rows of a short tensor and the others none.
    """

    name: str
    tensor: torch.Tensor
    shape: tuple[int, ...]
    first_row: int = 0
    is_sharded: bool = False

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def first_element(self) -> int:
        """Number of the first element held, in the flat order of the whole tensor."""
        return self.first_row * math.prod(self.shape[1:])

    def like(self, name: str, tensor: torch.Tensor) -> "Part":
        """The same range of another tensor of the same shape, such as an optimizer's state."""
        return Part(name, tensor, self.shape, self.first_row, self.is_sharded)


def shard_rows(num_rows: int, shard: int, shard_size: int) -> tuple[int, int]:
    """The first row that a process of a row of the grid holds of a tensor, and the one after its last."""
    chunk = -(-num_rows // shard_size)  # as torch.chunk cuts: full chunks first, then what is left
    return min(num_rows, shard * chunk), min(num_rows, (shard + 1) * chunk)


def part_of(name: str, tensor: torch.Tensor, layout: Layout) -> Part:
    """Describe what this process holds of a parameter or buffer of the model."""
    if not isinstance(tensor, DTensor):
        return Part(name, tensor.detach(), tuple(tensor.shape))
    first, _ = shard_rows(tensor.shape[0], layout.shard, layout.shard_size)
    return Part(name, tensor.to_local().detach(), tuple(tensor.shape), first, layout.shard_size > 1)
