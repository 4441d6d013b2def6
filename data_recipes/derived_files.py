"""Files that are worked out once, before the parts of a source are read, and looked up by each part: by their digest.

They lie in `cache_dir`, which every process of a build sees, and are made anew whenever a build begins.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from provenance.digests import sha256_file
from provenance.errors import SourceError

_FOLDER = "derived"


def keep_derived(cache_dir: Path, write: Callable[[BinaryIO], None]) -> str:
    """Keep what `write` writes and return its sha256; one that is there already is replaced by the same bytes."""
    folder = cache_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"partial-{uuid.uuid4().hex}"
    try:
        with partial.open("wb") as file:
            write(file)
        digest = sha256_file(partial)
        os.replace(partial, folder / digest)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def derived_file(cache_dir: Path, sha256: str, user: str) -> Path:
    """Return where a kept file lies, once it is seen to be the one.

    Args:
        user: what in the recipe needs it, for messages.

    Raises:
        SourceError: when it is missing, or another one.
    """
    path = cache_dir / _FOLDER / sha256
    found = sha256_file(path) if path.is_file() else "no file"
    if found != sha256:
        raise SourceError(
            f"{user}: {found}",
            expected=f"what was worked out before its parts were read, with sha256 {sha256}",
            where=str(path),
            next_command="run the same command again, which makes it anew; all processes must see execution.cache_dir",
        )
    return path
