"""Digests of tensors: the state digest (`state/1`) and the parameter checksum (`parameter-checksum/1`)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist

from train.layout import Layout, Part, pieces
from train.tensor_digests import combine_digests, digest_of_rows, hash_rows

_BIT_VIEWS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_BLOCK_ELEMENTS = 131_072
_DEVICE_BLOCK_ELEMENTS = 2**24  # GPUs want few and large kernels
_ROW_ELEMENTS = 256


def tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """Digest of one whole tensor."""
    return digest_of_rows(name, dtype_name(tensor.dtype), tensor.shape, row_digests(tensor))


def row_digests(tensor: torch.Tensor) -> bytes:
    """The sha256 of each row (one index of the first dimension), one after another; under two dimensions: of all."""
    contiguous = tensor.detach().cpu().contiguous()
    return hash_rows(contiguous.reshape(-1).view(torch.uint8).numpy().data, contiguous.shape)


def dtype_name(dtype: torch.dtype) -> str:
    """Torch's name of a dtype, without the module."""
    return str(dtype).removeprefix("torch.")


def state_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest `state/1` of whole named tensors; the order in which they are given does not matter."""
    return combine_digests({name: tensor_digest(name, tensor) for name, tensor in tensors.items()})


def digest_parts(parts: Sequence[Part], layout: Layout) -> dict[str, bytes]:
    """Digest of each tensor of which the processes of a row hold parts; every process gets all digests.

    Rows are hashed where they lie and only the digests travel; tensors under two dimensions travel themselves, and
    rows of which processes hold only some columns are put together first.
    """
    own = [
        part.tensor.cpu().numpy().tobytes()
        if _is_spread(part) and len(part.shape) < 2
        else row_digests(_whole_rows(part, layout))
        for part in parts
    ]
    gathered = [own] if layout.copy_size == 1 else _gather_bytes(own, layout)
    digests = {}
    for index, part in enumerate(parts):
        if not _is_spread(part):
            leaves = own[index]
        else:
            # Where columns are cut, or nothing, the processes of a place have the same rows by now.
            held = [piece for piece in pieces(part, layout) if part.cut == 0 or piece.tensor == 0]
            leaves = b"".join(gathered[piece.shard * layout.tensor_size + piece.tensor][index] for piece in held)
            if len(part.shape) < 2:
                leaves = hashlib.sha256(leaves).digest()
        digests[part.name] = digest_of_rows(part.name, dtype_name(part.tensor.dtype), part.shape, leaves)
    return digests


def _is_spread(part: Part) -> bool:
    """Whether processes of a row of the grid hold different rows or columns."""
    return part.is_sharded or part.cut is not None


def _whole_rows(part: Part, layout: Layout) -> torch.Tensor:
    """The rows that this process holds, with all their columns."""
    if part.cut != 1:
        return part.tensor
    held = [piece for piece in pieces(part, layout) if piece.shard == layout.shard]
    num_rows = part.tensor.shape[0]
    columns = [part.tensor.new_empty(num_rows, piece.columns.stop - piece.columns.start) for piece in held]
    dist.all_gather(columns, part.tensor.contiguous(), group=layout.tensor_group)
    return torch.cat(columns, dim=1)


def _gather_bytes(own: Sequence[bytes], layout: Layout) -> list[list[bytes]]:
    """What each process of this row gave, in order of ranks."""
    lengths_K = torch.tensor([len(data) for data in own], dtype=torch.int64, device=layout.world.device)
    lengths = [torch.empty_like(lengths_K) for _ in range(layout.copy_size)]
    dist.all_gather(lengths, lengths_K, group=layout.copy_group)
    most = max(int(each.sum()) for each in lengths)
    padded = torch.zeros(most, dtype=torch.uint8)
    joined = b"".join(own)
    padded[: len(joined)] = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else padded[:0]
    sent = padded.to(layout.world.device)
    received = [torch.empty_like(sent) for _ in range(layout.copy_size)]
    dist.all_gather(received, sent, group=layout.copy_group)
    gathered = []
    for each, sizes in zip(received, lengths, strict=True):
        data, place, pieces = each.cpu().numpy().tobytes(), 0, []
        for size in sizes.tolist():
            pieces.append(data[place : place + size])
            place += size
        gathered.append(pieces)
    return gathered


class ParameterChecksum:
    """`parameter-checksum/1` of a model, shared out over processes block by block.

    Two integer sums over the bits of every element, modulo 2**64: plain, and weighted by the element's number. They
    do not depend on the order of adding, so that any layout gives the same value.

    Args:
        parts: what this process holds of each parameter; the sums run over them in sorted order of names.
        layout: the processes; each adds what no other adds.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout) -> None:
        self._layout = layout
        self._blocks: list[torch.Tensor] = []
        firsts, first, device = [], 0, layout.world.device
        block_elements = _BLOCK_ELEMENTS if device.type == "cpu" else _DEVICE_BLOCK_ELEMENTS
        for part in sorted(parts, key=lambda part: part.name):
            for block, starts_R in _blocks_of(part, block_elements) if part.counts_at(layout) else ():
                self._blocks.append(block)
                firsts.append(first + starts_R)
            first += part.num_elements
        own = slice(layout.replica, None, layout.num_replicas)
        self._blocks = [block for block in self._blocks[own] if block.numel()]
        self._firsts_R = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *firsts[own]])
        self._bits_N = torch.empty(block_elements, dtype=torch.int64, device=device)
        self._places_C = torch.arange(1, _ROW_ELEMENTS + 1, dtype=torch.int64, device=device)

    def total(self) -> str:
        """Return the two sums as the ledger holds them; every process takes part."""
        return format_checksum(self._layout.world.all_reduce(self.partial_sums()))

    def partial_sums(self) -> torch.Tensor:
        """Return this process's share of the two sums, an int64 tensor of shape [2] (arithmetic wraps).

        A block is laid out in rows. An element's number is that of its row's first element and its place in the row,
        so that only sums of rows and of columns are weighted: less work than weighting every element.
        """
        rows, columns_C = [self._firsts_R[:0]], torch.zeros_like(self._places_C)
        for bits in self._blocks:
            num_rows = len(bits) if bits.dim() == 2 else -(-bits.numel() // _ROW_ELEMENTS)
            block_RC = self._bits_N[: num_rows * _ROW_ELEMENTS].view(num_rows, _ROW_ELEMENTS)
            if bits.dim() == 2:
                block_RC[:, : bits.shape[1]].copy_(bits)
                block_RC[:, bits.shape[1] :] = 0
            else:
                self._bits_N[: bits.numel()].copy_(bits)
                self._bits_N[bits.numel() : block_RC.numel()] = 0
            rows.append(block_RC.sum(1))
            columns_C += block_RC.sum(0)
        weighted = (torch.cat(rows) * self._firsts_R).sum() + (columns_C * self._places_C).sum()
        return torch.stack([columns_C.sum(), weighted])


def _blocks_of(part: Part, block_elements: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Bits of a part in blocks, and the number of the first element of each of a block's rows in the whole tensor.

    A flat block has rows of `_ROW_ELEMENTS`, the last one shorter; where columns are cut, a block is a piece of a
    matrix, at most `_ROW_ELEMENTS` wide. Both are views: copies would go stale.
    """
    bits = part.tensor.view(_BIT_VIEWS[part.tensor.element_size()])
    if part.cut == 1:
        for start in range(0, bits.shape[0], block_elements // _ROW_ELEMENTS):
            rows = bits[start : start + block_elements // _ROW_ELEMENTS]
            numbers_R = torch.arange(len(rows), dtype=torch.int64, device=bits.device) + part.first_row + start
            for column in range(0, bits.shape[1], _ROW_ELEMENTS):
                block_RC = rows[:, column : column + _ROW_ELEMENTS]
                yield block_RC, numbers_R * part.shape[1] + part.first_column + column
        return
    for number, block_N in enumerate(torch.split(bits.view(-1), block_elements)):
        starts_R = torch.arange(0, block_N.numel(), _ROW_ELEMENTS, dtype=torch.int64, device=bits.device)
        yield block_N, part.first_element + number * block_elements + starts_R


def format_checksum(sums: torch.Tensor) -> str:
    """Write the two sums as the ledger holds them."""
    plain, weighted = (int(value) % 2**64 for value in sums)
    return f"{plain:016x}-{weighted:016x}"
