"""Files that are worked out once, before the parts of a source are read, and looked up by each part: by their digest.

They lie in `cache_dir`, which every process of a build sees, and are made anew whenever a build begins.
"""

import gzip
import os
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from data_recipes.local_files import pinned_file
from provenance.digests import sha256_file

_FOLDER = "derived"
_LINES_AT_ONCE = 1024


class DerivedFile:
    """A file that is being written; what was not kept is removed at the end of the block.

    Attributes:
        file: to write to.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / _FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._partial = self._folder / f"partial-{uuid.uuid4().hex}"
        self.file = self._partial.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self._partial.unlink(missing_ok=True)

    def keep(self) -> str:
        """Close the file, keep it under its sha256 and return that; one that is there already has the same bytes."""
        self.file.close()
        digest = sha256_file(self._partial)
        os.replace(self._partial, self._folder / digest)
        return digest


class LineCopies:
    """Lines of a gzip file, copied into one for each part of a source: it cannot be read from its middle."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._files = ExitStack()
        self._made: DerivedFile | None = None
        self._gzip: gzip.GzipFile | None = None
        self._waiting: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def write(self, lines: str) -> None:
        """Add lines to the copy of this part."""
        self._waiting.append(lines)
        if len(self._waiting) == _LINES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._gzip is None:
            self._made = self._files.enter_context(DerivedFile(self._cache_dir))
            self._gzip = gzip.GzipFile("", "wb", 1, self._made.file, mtime=0)
        self._gzip.write("".join(self._waiting).encode("utf-8"))
        self._waiting.clear()

    def keep(self) -> str | None:
        """End the copy and return its digest; None where nothing was written to it."""
        if self._waiting:
            self._flush()
        if self._made is None or self._gzip is None:
            return None
        self._gzip.close()
        digest = self._made.keep()
        self._files.close()
        self._made = self._gzip = None
        return digest


def derived_file(cache_dir: Path, sha256: str, user: str) -> Path:
    """Return where a kept file lies, once it is seen to be the one.

    Args:
        user: what in the recipe needs it, for messages.

    Raises:
        SourceError: when it is missing, or another one.
    """
    next_command = "run the same command again, which makes it anew; all processes must see execution.cache_dir"
    kind = "what was worked out before its parts were read,"
    return pinned_file(cache_dir / _FOLDER / sha256, sha256, user, kind, next_command)
