"""Local files that a recipe pins: by path below `execution.data_dir`, and by the digest of their content."""

from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from provenance.config import Config
from provenance.digests import sha256_file
from provenance.errors import SourceError

_PUT_THERE = "put the pinned file there, or --set corpus.execution.data_dir=DIRECTORY"


class DatasetFile(Config):
    """One file of a data set, by path relative to `execution.data_dir`, with its digest."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _is_relative(cls, value: str) -> str:
        place = PurePosixPath(value)
        if not value or place.is_absolute() or ".." in place.parts:
            raise ValueError("a relative path without '..'; execution.data_dir says where it lies")
        return value


def pinned_path(file: DatasetFile, data_dir: Path, user: str, kind: str) -> Path:
    """Return where a file lies, once it is seen to be the pinned one.

    Args:
        data_dir: directory that its path is relative to.
        user: what in the recipe names it, for messages.
        kind: what it is, for messages, such as `a tokenizer.json`.

    Raises:
        SourceError: when it is missing, or another one.
    """
    return pinned_file(data_dir / file.path, file.sha256, user, kind)


def pinned_file(path: Path, sha256: str, user: str, kind: str, next_command: str = _PUT_THERE) -> Path:
    """Return a path, once the file is seen to be the pinned one; else as `pinned_path`, with the next command given."""
    found = sha256_file(path) if path.is_file() else "no file"
    if found != sha256:
        raise SourceError(
            f"{user}: {found}",
            expected=f"{kind} with sha256 {sha256}",
            where=str(path),
            next_command=next_command,
        )
    return path
