"""Real text for the benchmarks of data recipes: the files of a directory, in an order of their own names."""

import hashlib
from pathlib import Path

MEGABYTE = 1_000_000


def read_texts(directory: Path, size_bytes: int) -> list[str]:
    """The files below a directory that are UTF-8, each a document, up to a number of bytes; in the order of a hash.

    Raises:
        SystemExit: when they hold less.
    """
    paths = [path for path in directory.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: hashlib.sha256(path.relative_to(directory).as_posix().encode()).digest())
    texts, found = [], 0
    for path in paths:
        if found >= size_bytes:
            return texts
        data = path.read_bytes()
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:
            continue
        found += len(data)
    if found < size_bytes:
        raise SystemExit(
            f"{directory} holds {found / MEGABYTE:.1f} MB of UTF-8 text; {size_bytes / MEGABYTE:g} are needed"
        )
    return texts
