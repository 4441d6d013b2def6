"""Digests: sha256 over bytes, over canonical JSON with a construction tag, and over sets of files.

Every construction has a name with a version (`content/1`); the name is hashed with the value, so that a later
version can never be mistaken for an older one. All constructions are listed in `docs/formats.md`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json, canonical_json

_BLOCK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal sha256 of a byte string."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tagged_digest(construction: str, value: Json) -> str:
    """sha256 over `openwright:<construction>\\n` and the canonical JSON of `value`."""
    return sha256_bytes(f"openwright:{construction}\n".encode() + canonical_json(value))


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of an artifact or bundle: POSIX path relative to its root, size and digest."""

    path: str
    size_bytes: int
    sha256: str

    def as_json(self) -> dict[str, Json]:
        """Return the form that manifests hold."""
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}


def hash_files(root: Path, paths: Iterable[Path]) -> list[FileEntry]:
    """Hash files below `root` and return their entries sorted by path."""
    entries = [FileEntry(p.relative_to(root).as_posix(), p.stat().st_size, sha256_file(p)) for p in paths]
    return sorted(entries)


@dataclass(frozen=True, order=True)
class Parent:
    """An artifact that another was made from, by role, name and content digest."""

    role: str
    name: str
    content_digest: str

    def as_json(self) -> dict[str, Json]:
        """Return the form that manifests hold."""
        return {"role": self.role, "name": self.name, "content_digest": self.content_digest}


def content_digest(kind: str, results: Iterable[FileEntry], parents: Iterable[Parent]) -> str:
    """Digest `content/1` of an artifact: its kind, its result files and its parents; never an observation."""
    value = {
        "kind": kind,
        "results": [entry.as_json() for entry in sorted(results)],
        "parents": [parent.as_json() for parent in sorted(parents)],
    }
    return tagged_digest("content/1", value)
