"""Digests of tensors: the state digest (`state/1`) and the parameter checksum (`parameter-checksum/1`)."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from train.layout import Layout, Part
from train.tensor_digests import combine_digests, digest_of_rows, hash_rows

_BIT_VIEWS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_BLOCK_ELEMENTS = 131_072
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

    Rows are hashed where they lie and only the digests travel; tensors under two dimensions travel themselves.
    """
    own = [
        part.tensor.cpu().numpy().tobytes() if part.is_sharded and len(part.shape) < 2 else row_digests(part.tensor)
        for part in parts
    ]
    gathered = [own] if layout.shard_size == 1 else _gather_bytes(own, layout)
    digests = {}
    for index, part in enumerate(parts):
        if not part.is_sharded:
            leaves = own[index]
        else:
            leaves = b"".join(each[index] for each in gathered)
            if len(part.shape) < 2:
                leaves = hashlib.sha256(leaves).digest()
        digests[part.name] = digest_of_rows(part.name, dtype_name(part.tensor.dtype), part.shape, leaves)
    return digests


def _gather_bytes(own: Sequence[bytes], layout: Layout) -> list[list[bytes]]:
    """What each process of this row gave, in order of shards."""
    lengths_K = torch.tensor([len(data) for data in own], dtype=torch.int64, device=layout.world.device)
    lengths = [torch.empty_like(lengths_K) for _ in range(layout.shard_size)]
    dist.all_gather(lengths, lengths_K, group=layout.shard_group)
    most = max(int(each.sum()) for each in lengths)
    padded = torch.zeros(most, dtype=torch.uint8)
    joined = b"".join(own)
    padded[: len(joined)] = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else padded[:0]
    sent = padded.to(layout.world.device)
    received = [torch.empty_like(sent) for _ in range(layout.shard_size)]
    dist.all_gather(received, sent, group=layout.shard_group)
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
        for part in sorted(parts, key=lambda part: part.name):
            flat_N = part.tensor.view(-1)  # a copy would go stale
            blocks = torch.split(flat_N.view(_BIT_VIEWS[flat_N.element_size()]), _BLOCK_ELEMENTS)
            for number, block_N in enumerate(blocks):
                self._blocks.append(block_N)
                starts_R = torch.arange(0, block_N.numel(), _ROW_ELEMENTS, dtype=torch.int64, device=device)
                firsts.append(first + part.first_element + number * _BLOCK_ELEMENTS + starts_R)
            first += part.num_elements
        own = slice(layout.replica, None, layout.num_replicas)
        self._blocks = [block_N for block_N in self._blocks[own] if block_N.numel()]
        self._firsts_R = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *firsts[own]])
        self._bits_N = torch.empty(_BLOCK_ELEMENTS, dtype=torch.int64, device=device)
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
        for bits_N in self._blocks:
            num_elements = bits_N.numel()
            num_rows = -(-num_elements // _ROW_ELEMENTS)
            self._bits_N[:num_elements].copy_(bits_N)
            self._bits_N[num_elements : num_rows * _ROW_ELEMENTS] = 0
            block_RC = self._bits_N[: num_rows * _ROW_ELEMENTS].view(num_rows, _ROW_ELEMENTS)
            rows.append(block_RC.sum(1))
            columns_C += block_RC.sum(0)
        weighted = (torch.cat(rows) * self._firsts_R).sum() + (columns_C * self._places_C).sum()
        return torch.stack([columns_C.sum(), weighted])


def format_checksum(sums: torch.Tensor) -> str:
    """Write the two sums as the ledger holds them."""
    plain, weighted = (int(value) % 2**64 for value in sums)
    return f"{plain:016x}-{weighted:016x}"
