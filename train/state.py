"""Digests of tensors: the state digest (`state/1`) and the parameter checksum (`parameter-checksum/1`)."""

import hashlib
from collections.abc import Iterable, Mapping

import torch

from provenance.canonical import canonical_json

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
_BIT_VIEWS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_BLOCK_ELEMENTS = 65_536


def tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """Digest of one tensor: a header and the sha256 of each row, so that a rank can hash the rows it holds."""
    header = {"name": name, "dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)}
    digest = hashlib.sha256(b"openwright:state/1:tensor\n" + canonical_json(header) + b"\n")
    contiguous = tensor.detach().cpu().contiguous()
    rows = contiguous.reshape(contiguous.shape[0], -1) if contiguous.dim() >= 2 else contiguous.reshape(1, -1)
    row_bytes = rows.shape[1] * rows.element_size()
    data = memoryview(rows.view(torch.uint8).numpy().tobytes())
    for start in range(0, len(data), row_bytes):
        digest.update(hashlib.sha256(data[start : start + row_bytes]).digest())
    return digest.digest()


def state_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest `state/1` of named tensors; the order in which they are given does not matter."""
    digest = hashlib.sha256(b"openwright:state/1\n")
    for name in sorted(tensors):
        digest.update(tensor_digest(name, tensors[name]))
    return digest.hexdigest()


class ParameterChecksum:
    """`parameter-checksum/1` of a model, shared out over processes block by block.

    Two integer sums over the bits of every element, modulo 2**64: plain, and weighted by the element's number. They
    do not depend on the order of adding, so that any layout gives the same value.

    Args:
        parameters: named parameters; the sums run over them in sorted order of names.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self._parameters = [parameters[name] for name in sorted(parameters)]
        self._places_N = torch.arange(1, _BLOCK_ELEMENTS + 1, dtype=torch.int64)

    def partial_sums(self, rank: int = 0, world_size: int = 1) -> torch.Tensor:
        """Return this process's share of the two sums, an int64 tensor of shape [2] (arithmetic wraps)."""
        sums = torch.zeros(2, dtype=torch.int64)
        for number, (start, bits_N) in enumerate(self._blocks()):
            if number % world_size == rank:
                plain = bits_N.sum()
                weighted = (bits_N * self._places_N[: bits_N.numel()]).sum()
                sums[0] += plain
                sums[1] += weighted + plain * start
        return sums

    def _blocks(self) -> Iterable[tuple[int, torch.Tensor]]:
        start = 0
        for parameter in self._parameters:
            flat_N = parameter.detach().reshape(-1)
            bits_N = flat_N.view(_BIT_VIEWS[flat_N.element_size()])
            for block in torch.split(bits_N, _BLOCK_ELEMENTS):
                yield start, block.to(torch.int64)
                start += block.numel()


def format_checksum(sums: torch.Tensor) -> str:
    """Write the two sums as the ledger holds them."""
    plain, weighted = (int(value) % 2**64 for value in sums)
    return f"{plain:016x}-{weighted:016x}"
