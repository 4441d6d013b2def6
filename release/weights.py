"""Safetensors files read without torch: headers, parameter counts and the digest `state/1` of their tensors."""

import hashlib
import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from provenance.canonical import canonical_json
from provenance.errors import BundleError
from train.weight_files import read_header


def header_problem(path: Path) -> str:
    """Say what is wrong with a safetensors file, or nothing: tensors must cover the data without gap or overlap."""
    try:
        header, start = read_header(path)
        spans = sorted(tuple(value["data_offsets"]) for value in header.values())
    except (BundleError, KeyError, TypeError) as error:
        return f"the header does not parse ({error})".splitlines()[0]
    end = 0
    for first, last in spans:
        if first != end or last < first:
            return "tensors leave a gap or overlap"
        end = last
    return "" if start + end == path.stat().st_size else "the tensors do not cover the file"


def num_parameters(files: Sequence[Path], without: tuple[str, ...] = ()) -> int:
    """Elements of all tensors in safetensors files, without those whose names end so."""
    tensors = (item for path in files for item in read_header(path)[0].items())
    return sum(prod(tensor["shape"]) for name, tensor in tensors if not name.endswith(without))


def weights_digest(files: Sequence[Path]) -> str:
    """Digest `state/1` of the tensors in safetensors files."""
    found: dict[str, bytes] = {}
    for path in files:
        header, start = read_header(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, tensor in header.items():
                first, last = tensor["data_offsets"]
                found[name] = _tensor_digest(name, tensor, data[start + first : start + last])
    return hashlib.sha256(b"openwright:state/1\n" + b"".join(found[name] for name in sorted(found))).hexdigest()


def _tensor_digest(name: str, tensor: dict[str, Any], data: bytes) -> bytes:
    shape = tensor["shape"]
    header = canonical_json({"name": name, "dtype": tensor["dtype"], "shape": shape})
    digest = hashlib.sha256(b"openwright:state/1:tensor\n" + header + b"\n")
    row_bytes = len(data) // shape[0] if len(shape) >= 2 and shape[0] else len(data)
    for start in range(0, len(data), max(row_bytes, 1)):
        digest.update(hashlib.sha256(data[start : start + row_bytes]).digest())
    return digest.digest()
