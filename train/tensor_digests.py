"""The state digest (`state/1`) of tensors that lie in memory as bytes; nothing here needs torch."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from provenance.canonical import canonical_json

DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float64": ("F64", 8), "int64": ("I64", 8)}
"""By torch's name of a dtype: the name in headers, and the bytes of an element."""


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor, by torch's name of its dtype."""
    return math.prod(shape) * DTYPES[dtype][1]


def hash_rows(data: memoryview, shape: Sequence[int]) -> bytes:
    """The sha256 of each row (one index of the first dimension), one after another; under two dimensions: of all.

    Args:
        data: bytes of the tensor, or of some of its rows, in order.
        shape: of what `data` holds.
    """
    num_rows = shape[0] if len(shape) >= 2 else 1
    row_bytes = len(data) // max(1, num_rows)
    sha256 = hashlib.sha256
    return b"".join([sha256(data[row * row_bytes : (row + 1) * row_bytes]).digest() for row in range(num_rows)])


def digest_of_rows(name: str, dtype: str, shape: Sequence[int], rows: bytes) -> bytes:
    """Digest of one whole tensor: of a header and the digests of its rows, which a process can hash where they lie."""
    header = {"name": name, "dtype": DTYPES[dtype][0], "shape": list(shape)}
    return hashlib.sha256(b"openwright:state/1:tensor\n" + canonical_json(header) + b"\n" + rows).digest()


def combine_digests(tensor_digests: Mapping[str, bytes]) -> str:
    """Digest `state/1` of the digests of named tensors."""
    digest = hashlib.sha256(b"openwright:state/1\n")
    for name in sorted(tensor_digests):
        digest.update(tensor_digests[name])
    return digest.hexdigest()
