"""Files of Megatron: tokens and index, as the library writes them."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
CODES = {"<u2": 8, "<i4": 4}


def write(
    prefix: Path,
    documents: Sequence[Sequence[int]],
    dtype: str = "<u2",
    *,
    sequences_per_document: int = 1,
    **changes: int,
) -> None:
    """Write `PREFIX.bin` and `PREFIX.idx`.

    Args:
        changes: other numbers in the place of `version`, `code`, `sequences` and `bounds` of the header.
    """
    sequences = [list(part) for ids in documents for part in np.array_split(np.array(ids), sequences_per_document)]
    lengths = [len(sequence) for sequence in sequences]
    places = np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize
    bounds = np.arange(len(documents) + 1) * sequences_per_document
    fields = {"version": 1, "code": CODES[dtype], "sequences": len(lengths), "bounds": len(bounds)} | changes
    ids = np.concatenate([np.array(document) for document in documents])
    prefix.with_suffix(".bin").write_bytes(ids.astype(dtype).tobytes())
    prefix.with_suffix(".idx").write_bytes(
        MAGIC
        + struct.pack("<QBQQ", fields["version"], fields["code"], fields["sequences"], fields["bounds"])
        + np.array(lengths, "<i4").tobytes()
        + np.array(places, "<i8").tobytes()
        + bounds.astype("<i8").tobytes()
    )
