"""Copying a state, at a step boundary, into memory that each process shares with the one that writes its files.

File `i` of a checkpoint belongs to process `i` modulo their number. Where several processes share a copy of the model,
each sends what it holds straight to its place in the memory of the process that writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import torch
import torch.distributed as dist

from train.checkpoint import TensorFile, whole_bytes
from train.checkpoint_files import TensorPlace
from train.checkpoint_process import CheckpointProcess
from train.layout import Layout, Part, Piece, pieces
from train.state import dtype_name

_ALIGNMENT_BYTES = 64


def copy_tensors(
    files: Sequence[TensorFile], layout: Layout, process: CheckpointProcess
) -> dict[str, list[TensorPlace]]:
    """Copy the whole tensors of the files that this process writes; returns where they lie, by file.

    Every process calls it at the same time.

    Raises:
        OSError: when there is no memory for them.
    """
    world = layout.world
    places, size_bytes = _places(files[world.rank :: world.size])
    memory = process.memory(size_bytes) if places else None
    offsets = {place.name: place.offset for each in places.values() for place in each}
    transfers = []
    for number, file in enumerate(files):
        writer = number % world.size
        if writer // layout.copy_size == layout.replica:
            for part in file.parts:
                copy = None if memory is None else _view(memory, offsets.get(part.name), part)
                transfers += _copy(part, writer, copy, layout)
    for transfer in transfers:
        transfer.finish()
    return places


def _places(files: Sequence[TensorFile]) -> tuple[dict[str, list[TensorPlace]], int]:
    """Where the tensors of some files lie in shared memory, one after the other, and how much of it they take."""
    places: dict[str, list[TensorPlace]] = {}
    end = 0
    for file in files:
        places[file.name] = []
        for part in file.parts:
            places[file.name].append(TensorPlace(part.name, dtype_name(part.tensor.dtype), part.shape, end))
            end += -(-whole_bytes(part) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return places, end


def _view(memory: mmap, offset: int | None, part: Part) -> torch.Tensor | None:
    """A whole tensor in shared memory; None without a place there."""
    if offset is None:
        return None
    if part.num_elements == 0:
        return torch.empty(part.shape, dtype=part.tensor.dtype)
    return torch.frombuffer(memory, dtype=part.tensor.dtype, count=part.num_elements, offset=offset).view(part.shape)


def _copy(part: Part, writer: int, copy: torch.Tensor | None, layout: Layout) -> list["_Transfer"]:
    """Bring one tensor to the process that writes it.

    Args:
        writer: number of that process, which is in this process's row of the grid.
        copy: memory for the whole tensor there; None elsewhere.

    Returns:
        Transfers between processes that are on their way.
    """
    own_rank, first_rank = layout.world.rank, layout.replica * layout.copy_size
    if part.cut is None and not part.is_sharded:
        if copy is not None:
            copy.copy_(part.tensor)
        return []
    transfers = []
    for piece in pieces(part, layout):
        holder = first_rank + piece.shard * layout.tensor_size + piece.tensor
        # What all processes of a place hold, the one sends that stands there as the writer does at its own.
        if not piece.size or (part.cut is None and piece.tensor != writer % layout.tensor_size):
            continue
        if copy is None:
            transfers += [_Transfer.send(part.tensor, writer)] if holder == own_rank else []
        elif holder == own_rank:
            _place_of(piece, part, copy).copy_(part.tensor)
        else:
            transfers.append(_Transfer.receive(_place_of(piece, part, copy), holder, part.tensor.device))
    return transfers


def _place_of(piece: Piece, part: Part, copy: torch.Tensor) -> torch.Tensor:
    """Where a piece goes in a whole tensor."""
    return copy[piece.rows, piece.columns] if part.cut == 1 else copy[piece.rows]


@dataclass(frozen=True)
class _Transfer:
    """Rows on their way between two processes.

    Attributes:
        work: the transfer.
        rows: what is sent, or received; it must live until the transfer is over.
        target: where received rows go.
    """

    work: Any
    rows: torch.Tensor
    target: torch.Tensor | None = None

    @classmethod
    def send(cls, rows: torch.Tensor, receiver: int) -> "_Transfer":
        rows = rows.to(_wire_device(rows.device)).contiguous()
        return cls(dist.isend(rows, receiver), rows)

    @classmethod
    def receive(cls, target: torch.Tensor, sender: int, device: torch.device) -> "_Transfer":
        device = _wire_device(device)
        direct = device.type == "cpu" and target.is_contiguous()
        rows = target if direct else torch.empty(target.shape, dtype=target.dtype, device=device)
        return cls(dist.irecv(rows, sender), rows, target)

    def finish(self) -> None:
        self.work.wait()
        if self.target is not None and self.target is not self.rows:
            self.target.copy_(self.rows)


def _wire_device(device: torch.device) -> torch.device:
    """Where rows of a device lie while they are sent: gloo sends from a process to another out of host memory only."""
    return torch.device("cpu") if dist.get_backend() == "gloo" else device
