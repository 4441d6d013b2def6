"""Records of a web archive (WARC 1.0 and 1.1), one after another; of each no more is in memory than is asked for."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_recipes.warc_stream import ArchiveStream, DamagedArchive

MAX_HEAD_BYTES = 1 << 18
"""Longest header of a record, or of a response in it."""

_VERSIONS = (b"WARC/1.0", b"WARC/1.1")
_FIRST_LINE, _FIRST_LINE_BYTES = re.compile(rb"WARC/1\.[0-9]\r\n"), 10
_BLOCK_BYTES = 1 << 16
_LENGTH = re.compile(r"[0-9]{1,15}")
_DIGEST_BYTES = {"sha1": 20, "sha256": 32}


class MalformedRecord(ValueError):
    """A record is not as the standard has it."""


class Fields:
    """Named fields of a header; names in any case, in order, each as often as it stands there."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Return every value of a field."""
        return self._values.get(name.lower(), [])

    def get(self, name: str) -> str:
        """Return the first value of a field; empty where there is none."""
        return next(iter(self.all(name)), "")


def read_fields(lines: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and values of header lines; a line that begins with white space goes on with the one before.

    What is no UTF-8 stands as `\\xNN`; a line without a colon has the name "".
    """
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", lines).decode("utf-8", "backslashreplace")
    for line in re.split(r"\r?\n", unfolded):
        if line:
            name, colon, value = line.partition(":")
            yield (name.strip() if colon else "", value.strip())


class DeclaredDigest:
    """A digest that a record declares, `sha1:` or `sha256:` in base 32 or 16, and the bytes that are held against it.

    Attributes:
        is_known: whether there is one that can be checked.
    """

    def __init__(self, declared: str) -> None:
        algorithm, _, value = declared.partition(":")
        name = algorithm.strip().lower().replace("-", "")
        self._expected = _digest_bytes(value.strip(), _DIGEST_BYTES.get(name, 0))
        self.is_known = bool(self._expected)
        self._digest: Any = hashlib.new(name) if self.is_known else None
        self._name = name

    def update(self, data: bytes) -> None:
        """Add bytes."""
        if self._digest is not None:
            self._digest.update(data)

    def fits(self) -> bool:
        """Whether the bytes so far are those that it names, or there is none to check."""
        return self._digest is None or self._digest.digest() == self._expected

    def fits_also(self, data: bytes) -> bool:
        """Whether it names these bytes instead."""
        return self.is_known and hashlib.new(self._name, data).digest() == self._expected


def _digest_bytes(text: str, size_bytes: int) -> bytes:
    """The digest that a text writes; empty where it is none of that length."""
    if size_bytes == 0:
        return b""
    try:
        if len(text) == 2 * size_bytes:
            return bytes.fromhex(text)
        found = base64.b32decode(text.upper().rstrip("=") + "=" * (-len(text.rstrip("=")) % 8))
    except (ValueError, binascii.Error):
        return b""
    return found if len(found) == size_bytes else b""


@dataclass(frozen=True)
class Record:
    """A record whose block is not read yet.

    Attributes:
        place: where it begins, as `ArchiveStream.place` has it.
        size_bytes: length of its block.
    """

    place: str
    fields: Fields
    size_bytes: int

    @property
    def kind(self) -> str:
        """Its WARC-Type."""
        return self.fields.get("WARC-Type").lower()


@dataclass(frozen=True)
class BrokenRecord:
    """A gzip member whose record cannot be read; the next one can.

    Attributes:
        place: where it begins.
        sha256: digest of the member as it stands in the file.
        reason: what is wrong.
    """

    place: str
    sha256: str
    reason: str


class RecordReader:
    """Reads records: `begin` the next one, `read` its block, `finish` it; after a MalformedRecord `give_up`.

    What `read` gave counts only when `finish` did not raise: a wrong length shows at the end of a record.
    """

    def __init__(self, stream: ArchiveStream) -> None:
        self._stream = stream
        self._left = 0
        self._is_open = False
        self._place = ""

    def begin(self) -> Record | None:
        """Return the next record; None at the end of the archive.

        Raises:
            MalformedRecord: for a header that cannot be read.
            DamagedArchive: as `ArchiveStream.read`.
        """
        self.finish()
        while not self._stream.peek(1):
            if not self._stream.next_member():
                return None
        self._place = self._stream.place
        fields = self._header()
        self._left, self._is_open = _length(fields), True
        return Record(self._place, fields, self._left)

    def _header(self) -> Fields:
        version = self._stream.read_until(b"\r\n", 64)
        if version is None or version[:-2] not in _VERSIONS:
            raise MalformedRecord(f"it begins with {self._stream.peek(16) if version is None else version[:-2]!a}")
        lines = self._stream.read_until(b"\r\n\r\n", MAX_HEAD_BYTES)
        if lines is None:
            raise MalformedRecord(f"its header does not end within {MAX_HEAD_BYTES} bytes")
        pairs = list(read_fields(lines))
        if any(not name for name, _ in pairs):
            raise MalformedRecord("a line of its header has no name")
        return Fields(pairs)

    def read(self, size: int) -> bytes:
        """Return the next bytes of the block, at most `size`; none at its end.

        Raises:
            MalformedRecord: where the member, or the file, ends before the block does.
        """
        if self._left == 0:
            return b""
        piece = self._stream.read(min(size, self._left))
        if not piece:
            raise MalformedRecord(f"{self._left} bytes of its block are missing")
        self._left -= len(piece)
        return piece

    def finish(self) -> None:
        """Read the record to its end.

        Raises:
            MalformedRecord: as `read`, and where something else follows than the end of a record.
        """
        if not self._is_open:
            return
        while self.read(_BLOCK_BYTES):
            pass
        self._is_open = False
        end = self._stream.peek(4)
        if end != b"\r\n\r\n":
            raise MalformedRecord(f"its block is followed by {end!a}: Content-Length is wrong")
        self._stream.read(4)

    def give_up(self, error: MalformedRecord) -> BrokenRecord:
        """Leave the record out that was begun last, and go on with the next gzip member.

        Raises:
            DamagedArchive: where it is not known that no other record is left out with it: in a file that is not
                compressed, and in a member that holds another one, or whose end cannot be read.
        """
        self._left, self._is_open = 0, False
        message = f"the record at {self._place}: {error}"
        if not self._stream.is_compressed or "+" in self._place:
            raise DamagedArchive(message)
        sha256, has_another = self._stream.read_again(_FIRST_LINE, _FIRST_LINE_BYTES)
        if has_another:
            raise DamagedArchive(f"{message}; there are others in its gzip member")
        return BrokenRecord(self._place, sha256, str(error))


def _length(fields: Fields) -> int:
    lengths = set(fields.all("Content-Length"))
    if len(lengths) != 1 or not _LENGTH.fullmatch(text := lengths.pop()):
        raise MalformedRecord("its Content-Length is no single number")
    return int(text)
