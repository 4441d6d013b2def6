"""What the process beside a training process does with the disk: write a checkpoint's files, put it in its place.

Nothing here imports torch: tensors are bytes in memory that both processes share (`train.checkpoint_process`).
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from ctypes import addressof, c_char
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, TensorSpec, serialize_file

from provenance.canonical import Json, write_json
from provenance.durability import sync_path
from train.checkpoint_records import RECORD, remove_checkpoint
from train.retention import Retention, remove_old_checkpoints
from train.tensor_digests import digest_of_rows, hash_rows, tensor_bytes

UNKNOWN_ERROR = 2**31
_RUST_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")


class TensorPlace(NamedTuple):
    """A whole tensor in shared memory.

    Attributes:
        dtype: torch's name of it.
        offset: number of its first byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Companions:
    """Files of a checkpoint beside the tensors; one process writes them all.

    Attributes:
        documents: JSON by file name.
        texts: text by file name.
        copied: files that are copied.
        synced: files elsewhere that must be on the disk before the checkpoint is.
    """

    documents: Mapping[str, Json]
    texts: Mapping[str, str]
    copied: Sequence[str]
    synced: Sequence[str]


def write_tensors(directory: Path, files: Mapping[str, Sequence[TensorPlace]], memory: mmap | None) -> dict[str, bytes]:
    """Hash and write tensors of shared memory, file by file; returns the digest of each tensor."""
    digests: dict[str, bytes] = {}
    directory.mkdir(parents=True, exist_ok=True)
    for name, places in files.items():
        assert memory is not None
        for place in places:
            digests[place.name] = _digest(place, memory)
        write_file(directory / name, places, memory)
        sync_path(directory / name)
    return digests


def _digest(place: TensorPlace, memory: mmap) -> bytes:
    with memoryview(memory) as whole, whole[place.offset : place.offset + place.size_bytes] as data:
        return digest_of_rows(place.name, place.dtype, place.shape, hash_rows(data, place.shape))


def write_file(path: Path, places: Sequence[TensorPlace], memory: mmap) -> None:
    """Write one safetensors file, as `safetensors.torch.save_file` does."""
    start = addressof(c_char.from_buffer(memory))
    tensors = {
        place.name: TensorSpec(
            dtype=place.dtype, shape=place.shape, data_ptr=start + place.offset, data_len=place.size_bytes
        )
        for place in places
    }
    serialize_file(tensors, path, metadata={"format": "pt"})


def write_companions(directory: Path, companions: Companions) -> None:
    """Write what stands beside the tensors, and force it onto the disk."""
    for name, value in companions.documents.items():
        write_json(directory / name, value)
    for name, text in companions.texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    for path in companions.copied:
        shutil.copyfile(path, directory / Path(path).name)
    names = [*companions.documents, *companions.texts, *(Path(path).name for path in companions.copied)]
    for name in names:
        sync_path(directory / name)
    for path in companions.synced:
        sync_path(Path(path))


def place_checkpoint(directory: Path, target: Path, record: Json, retention: Retention | None) -> None:
    """Write the record of a checkpoint whose other files are whole, and rename its directory: then it exists.

    Args:
        retention: the rule by which older ones go then; None keeps them.
    """
    write_json(directory / RECORD, record)
    sync_path(directory / RECORD)
    sync_path(directory)
    if target.exists():
        remove_checkpoint(target)
    os.replace(directory, target)
    sync_path(target.parent)
    if retention is not None:
        remove_old_checkpoints(target.parent, retention)


def error_number(error: Exception) -> int:
    """The operating system's number of an error; safetensors has it in its message only."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _RUST_ERROR_NUMBER.search(str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else UNKNOWN_ERROR
