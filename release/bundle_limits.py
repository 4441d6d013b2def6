"""What libraries are kept away from: a bundle that a stranger made to hang or to fill the machine that reads it.

`verify.py` follows no link and reads in blocks. The checks with libraries open files by their names and read documents,
tables and records whole: they run only where every file is a plain one and none is larger than such a file can be.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from release.verify import CheckResult

MAX_WHOLE_BYTES = 256 * 2**20
MAX_YAML_BYTES = 2**20
MIN_ROW_BYTES = 16
MAX_UNPACKED_RATIO = 100
"""Rows hold a document's digest, which does not compress: so many bytes of a table at least, and so little unpacked."""

_READ_IN_BLOCKS = frozenset((".safetensors", ".bin", ".parquet"))


def obstacle(bundle: Path, results: Sequence[CheckResult]) -> tuple[str, str] | None:
    """Look for what must keep libraries away from the files of a bundle.

    Args:
        results: what `verify.py` found: links and odd files fail its check `tree`.

    Returns:
        What was found and in which file, or None.
    """
    for result in results:
        if result.name == "tree" and result.verdict == "FAIL":
            return f"not checked: {result.detail}", result.where
    for path in sorted(bundle.rglob("*")):
        if path.is_file() and (problem := too_large(path)):
            return f"not checked: {problem}", path.relative_to(bundle).as_posix()
    return None


def too_large(path: Path) -> str:
    """Why a file is larger than libraries should read whole, or unpack; empty where it is not."""
    size_bytes = path.stat().st_size
    if path.suffix == ".parquet":
        return _unpacks_too_far(path, size_bytes)
    if path.suffix in _READ_IN_BLOCKS or path.name in ("ledger.jsonl", "journal.jsonl"):
        return ""
    most = MAX_YAML_BYTES if path.suffix == ".yaml" else MAX_WHOLE_BYTES
    return f"{size_bytes:,} bytes; this program reads up to {most:,} of such a file" if size_bytes > most else ""


def _unpacks_too_far(path: Path, size_bytes: int) -> str:
    try:
        told = pq.read_metadata(path)
        unpacked_bytes = sum(told.row_group(number).total_byte_size for number in range(told.num_row_groups))
    except (pa.ArrowException, OSError, ValueError):
        return ""  # the check that reads the table says what is wrong with it
    if told.num_rows * MIN_ROW_BYTES > size_bytes or unpacked_bytes > MAX_UNPACKED_RATIO * size_bytes:
        return f"a table of {told.num_rows:,} rows and {unpacked_bytes:,} bytes packed in {size_bytes:,}"
    return ""


def unread_ledger(results: Sequence[CheckResult]) -> tuple[str, str] | None:
    """The first ledger that `verify.py` could not read, or that says of more than a program can recompute."""
    for result in results:
        if result.name.endswith(" ledger") and result.verdict != "PASS":
            return f"not checked: {result.detail}", result.where
    return None
