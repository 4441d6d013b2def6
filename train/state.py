"""Digests of tensors: the state digest (`state/1`) and the parameter checksum (`parameter-checksum/1`)."""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist

from provenance.canonical import canonical_json
from train.layout import Layout, Part

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
_BIT_VIEWS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_BLOCK_ELEMENTS = 65_536
_ROWS_BETWEEN_YIELDS = 64


def tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """Digest of one whole tensor: a header and the sha256 of each row, so that a process can hash the rows it holds."""
    leaves = row_digests(tensor)
    return _digest_of_rows(name, tensor.dtype, tuple(tensor.shape), leaves)


def row_digests(tensor: torch.Tensor) -> bytes:
    """The sha256 of each row (one index of the first dimension), one after another; under two dimensions: of all."""
    contiguous = tensor.detach().cpu().contiguous()
    if contiguous.dim() >= 2 and contiguous.shape[0] == 0:
        return b""
    rows = contiguous.reshape(contiguous.shape[0], -1) if contiguous.dim() >= 2 else contiguous.reshape(1, -1)
    row_bytes = rows.shape[1] * rows.element_size()
    data = rows.view(torch.uint8).numpy().reshape(-1).data
    digests = []
    for number, start in enumerate(range(0, len(data), row_bytes)):
        digests.append(hashlib.sha256(data[start : start + row_bytes]).digest())
        if number % _ROWS_BETWEEN_YIELDS == 0:
            time.sleep(0)  # short rows are hashed with Python's lock held; the loop that trains needs it too
    return b"".join(digests)


def _digest_of_rows(name: str, dtype: torch.dtype, shape: tuple[int, ...], leaves: bytes) -> bytes:
    header = {"name": name, "dtype": _DTYPE_NAMES[dtype], "shape": list(shape)}
    return hashlib.sha256(b"openwright:state/1:tensor\n" + canonical_json(header) + b"\n" + leaves).digest()


def combine_digests(tensor_digests: Mapping[str, bytes]) -> str:
    """Digest `state/1` of the digests of named tensors."""
    digest = hashlib.sha256(b"openwright:state/1\n")
    for name in sorted(tensor_digests):
        digest.update(tensor_digests[name])
    return digest.hexdigest()


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
        digests[part.name] = _digest_of_rows(part.name, part.tensor.dtype, part.shape, leaves)
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
        self._places: list[tuple[int, torch.Tensor]] = []
        first = 0
        for part in sorted(parts, key=lambda part: part.name):
            self._places.append((first + part.first_element, part.tensor))
            first += part.num_elements
        self._numbers_N = torch.arange(1, _BLOCK_ELEMENTS + 1, dtype=torch.int64, device=layout.world.device)

    def total(self) -> str:
        """Return the two sums as the ledger holds them; every process takes part."""
        return format_checksum(self._layout.world.all_reduce(self.partial_sums()))

    def partial_sums(self) -> torch.Tensor:
        """Return this process's share of the two sums, an int64 tensor of shape [2] (arithmetic wraps)."""
        sums = torch.zeros(2, dtype=torch.int64, device=self._numbers_N.device)
        for number, (start, bits_N) in enumerate(self._blocks()):
            if number % self._layout.num_replicas == self._layout.replica:
                bits_N = bits_N.to(torch.int64)
                plain = bits_N.sum()
                weighted = (bits_N * self._numbers_N[: bits_N.numel()]).sum()
                sums[0] += plain
                sums[1] += weighted + plain * start
        return sums

    def _blocks(self) -> Iterable[tuple[int, torch.Tensor]]:
        for first, tensor in self._places:
            flat_N = tensor.reshape(-1)
            bits_N = flat_N.view(_BIT_VIEWS[flat_N.element_size()])
            for number, block_N in enumerate(torch.split(bits_N, _BLOCK_ELEMENTS)):
                yield first + number * _BLOCK_ELEMENTS, block_N


def format_checksum(sums: torch.Tensor) -> str:
    """Write the two sums as the ledger holds them."""
    plain, weighted = (int(value) % 2**64 for value in sums)
    return f"{plain:016x}-{weighted:016x}"
