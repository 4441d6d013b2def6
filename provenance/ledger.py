"""Hash-chained JSON lines (`chain/1`), the form of `ledger.jsonl` and `journal.jsonl`.

Each line is one canonical JSON object whose field `previous` holds the sha256 of the bytes of the line before it
(without the newline), and 64 zeros in the first line. The head of a chain is the sha256 of its last line.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from provenance.canonical import canonical_json, parse_json
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError

CHAIN_START = "0" * 64
MAX_LINE_BYTES = 16 * 2**20
_BLOCK_BYTES = 2**16


@dataclass(frozen=True)
class ChainPlace:
    """A place in a chain, right after a record.

    Attributes:
        num_records: records before the place.
        size_bytes: bytes of the file before the place.
        head: digest of the record right before it. With no bytes before the place: what the first record is chained
            to, which is another chain's record where a replay starts in the middle.
    """

    num_records: int = 0
    size_bytes: int = 0
    head: str = CHAIN_START


class ChainWriter:
    """Appends records to a chain; opening an existing file continues it.

    It takes the same time however long the chain is: of what is there, only the record before the place is read. The
    links before it are checked by `read_chain`.

    Args:
        path: the JSON lines file; made if absent.
        place: where to go on; what follows in the file is cut off (a resumed run writes it again). None goes on after
            the last whole record; a last line torn by a crash is cut off.

    Attributes:
        num_records: records of the chain; of what was there before, those that `place` counts.

    Raises:
        ArtifactError: when no whole record with the digest `place.head` ends at the place.
    """

    def __init__(self, path: Path, place: ChainPlace | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        if place is None:
            end = _end_of_lines(self._file)
            place = ChainPlace(0, end, self._head_at(end))
        elif self._head_at(place.size_bytes, place.head) != place.head:
            raise ArtifactError(
                f"no record with the digest {place.head} ends at byte {place.size_bytes:,}",
                expected="the chain that was begun here",
                where=str(path),
            )
        self._file.truncate(place.size_bytes)
        self.head, self.num_records, self.size_bytes = place.head, place.num_records, place.size_bytes

    def _head_at(self, end: int, start: str = CHAIN_START) -> str:
        """Digest of the line that ends at a place: `start` with nothing before it, empty if no line ends there."""
        if end == 0:
            return start
        self._file.seek(end - 1)
        return sha256_bytes(next(_lines_back(self._file, end))) if self._file.read(1) == b"\n" else ""

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; it is flushed to the operating system before this returns."""
        line = canonical_json({**record, "previous": self.head})
        self._file.write(line + b"\n")
        self._file.flush()
        self.head = sha256_bytes(line)
        self.num_records += 1
        self.size_bytes += len(line) + 1

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


def read_back(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a chain from the last whole one back; the links are taken on trust."""
    with path.open("rb") as file:
        for line in _lines_back(file, _end_of_lines(file)):
            yield parse_json(line, str(path))


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _lines_back(file: IO[bytes], end: int) -> Iterator[bytes]:
    """Lines before the place `end`, where a line ends, the last one first and without newlines."""
    place, rest = end - 1, b""
    while place > 0:
        start = max(0, place - _BLOCK_BYTES)
        file.seek(start)
        rest, *lines = (file.read(place - start) + rest).split(b"\n")
        yield from reversed(lines)
        place = start
    if end > 0:
        yield rest


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
