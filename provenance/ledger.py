"""Hash-chained JSON lines (`chain/1`), the form of `ledger.jsonl` and `journal.jsonl`.

Each line is one canonical JSON object whose field `previous` holds the sha256 of the bytes of the line before it
(without the newline), and 64 zeros in the first line. The head of a chain is the sha256 of its last line.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provenance.canonical import canonical_json, parse_json
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError

CHAIN_START = "0" * 64
MAX_LINE_BYTES = 16 * 2**20


class ChainWriter:
    """Appends records to a chain; opening an existing file continues it.

    Args:
        path: the JSON lines file; made if absent.
        num_records: keep only that many records of an existing file and cut off the rest (a resumed run replays
            them). None keeps every whole record; a last line torn by a crash is cut off.
        head: what the first record is chained to; a replay starts in the middle of a chain.
    """

    def __init__(self, path: Path, num_records: int | None = None, head: str = CHAIN_START) -> None:
        self.path = path
        self.head = head
        self.num_records = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_bytes = 0
        if path.exists():
            for line in _whole_lines(path):
                if num_records is not None and self.num_records == num_records:
                    break
                record = parse_json(line, f"{path}:{self.num_records + 1}")
                _check_link(record, self.head, path, self.num_records + 1)
                self.head = sha256_bytes(line)
                self.num_records += 1
                keep_bytes += len(line) + 1
            os.truncate(path, keep_bytes)
        if num_records is not None and self.num_records != num_records:
            raise ArtifactError(
                f"{self.num_records} whole records", expected=f"at least {num_records}", where=str(path)
            )
        self._file = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; it is flushed to the operating system before this returns."""
        line = canonical_json({**record, "previous": self.head})
        self._file.write(line + b"\n")
        self._file.flush()
        self.head = sha256_bytes(line)
        self.num_records += 1

    def sync(self) -> None:
        """Force everything written so far onto the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        self._file.close()


class Journal(ChainWriter):
    """A chain of observations: every record carries its kind and the time at which it was written."""

    def note(self, kind: str, **facts: Any) -> None:
        """Write an observation."""
        self.append({"kind": kind, "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts})


def read_chain(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a chain and check every link.

    Raises:
        ArtifactError: when a link does not hold, naming the line.
        BundleError: when a line is not strict JSON.
    """
    head = CHAIN_START
    for number, line in enumerate(_whole_lines(path), start=1):
        record = parse_json(line, f"{path}:{number}")
        _check_link(record, head, path, number)
        head = sha256_bytes(line)
        yield record


def chain_head(path: Path) -> tuple[str, int]:
    """Return the head and the number of records of a chain whose links are taken on trust."""
    last, count = b"", 0
    for line in _whole_lines(path):
        last, count = line, count + 1
    return (sha256_bytes(last) if count else CHAIN_START), count


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                return
            yield line[:-1]


def _check_link(record: Any, head: str, path: Path, number: int) -> None:
    found = record.get("previous") if isinstance(record, dict) else None
    if found != head:
        raise ArtifactError(
            f"record {number} is chained to {found}",
            expected=f"the digest of the record before it, {head}",
            where=f"{path}:{number}",
        )
