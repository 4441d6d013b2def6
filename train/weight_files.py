"""Weights in safetensors files, read where they lie: no torch, no whole file in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from provenance.canonical import parse_json
from provenance.errors import BundleError

MAX_HEADER_BYTES = 100_000_000
FLOAT_BYTES = 4


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file without its metadata, and the number of bytes before the tensor data.

    Raises:
        BundleError: for a header that is longer than the file or no strict JSON.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, MAX_HEADER_BYTES):
            raise BundleError("the header is longer than the file", where=path.name)
        header = parse_json(file.read(length), path.name)
    if not isinstance(header, dict):
        raise BundleError("the header is no object", where=path.name)
    return {name: value for name, value in header.items() if name != "__metadata__"}, 8 + length


@dataclass(frozen=True)
class StoredTensor:
    """A tensor where it lies.

    Attributes:
        offset: number of its first byte in the file.
        dtype: as safetensors names it.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows as `state/1` hashes them: of the first dimension, or one."""
        return self.shape[0] if len(self.shape) >= 2 else 1

    @property
    def row_elements(self) -> int:
        """Elements of a row."""
        return prod(self.shape) // max(1, self.num_rows)

    def read_rows(self, first: int, last: int) -> npt.NDArray[np.float32]:
        """Rows `first` to `last` (without it) of an F32 tensor, one after another."""
        count = (last - first) * self.row_elements
        start = self.offset + first * self.row_elements * FLOAT_BYTES
        found = np.fromfile(self.path, "<f4", count, offset=start)
        if len(found) != count:
            raise BundleError("the file ends too early", where=str(self.path))
        return found


def weight_files(directory: Path) -> list[Path]:
    """Files of a model's weights in a directory, in their order."""
    return sorted(directory.glob("model*.safetensors"))


def stored_tensors(files: Sequence[Path]) -> Iterator[tuple[str, StoredTensor]]:
    """Name and place of every tensor, file by file in the order in which they lie there.

    Raises:
        BundleError: as `read_header`, and for an F32 tensor whose shape does not fit its bytes.
    """
    for path in files:
        header, start = read_header(path)
        for name, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
            first, last = map(int, entry["data_offsets"])
            shape = tuple(map(int, entry["shape"]))
            if entry["dtype"] == "F32" and prod(shape) * FLOAT_BYTES != last - first:
                raise BundleError(f"tensor {name!r} of shape {shape} in {last - first} bytes", where=path.name)
            yield name, StoredTensor(path, start + first, str(entry["dtype"]), shape)
