"""Lines of text files, plain or compressed, read as a stream: memory does not grow with the file or with a line."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

_BLOCK_BYTES = 1 << 20
_CODECS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSED_SUFFIXES = tuple(_CODECS)


class ByteStream(Protocol):
    """What lines are read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        ...


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        number: counted from 0 over all lines of the file.
        data: its bytes without the line feed; None where they are more than the limit.
        size_bytes: how many they are.
        sha256: their digest where they were not kept; else empty.
    """

    number: int
    data: bytes | None
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class LineRange:
    """Whole lines of a plain file: the bytes from `first_byte` to `end_byte`, and the number of the first line."""

    first_byte: int
    end_byte: int
    first_line: int


def open_stream(path: Path, lines: LineRange | None = None) -> ByteStream:
    """Open a file for reading; a suffix `.gz` or `.zst` says that it is compressed.

    Args:
        lines: the bytes to read, of a plain file only; None reads all.

    Raises:
        OSError: here or while it is read, for a file that is missing, cut short or damaged.
    """
    codec = _CODECS.get(path.suffix.lower())
    if codec is not None:
        assert lines is None, "a range of a compressed file"
        stream: ByteStream = pa.input_stream(str(path), compression=codec)
        return stream
    file = path.open("rb")
    return file if lines is None else _Range(file, lines)


class _Range:
    """The bytes of a range; a file that is shorter than it was is an error, not an end."""

    def __init__(self, file: BinaryIO, lines: LineRange) -> None:
        file.seek(lines.first_byte)
        self._file, self._left = file, lines.end_byte - lines.first_byte

    def read(self, size: int, /) -> bytes:
        block = self._file.read(min(size, self._left))
        if not block and self._left:
            raise OSError(f"{self._left} bytes are missing at the end")
        self._left -= len(block)
        return block


def read_lines(stream: ByteStream, max_line_bytes: int, first_number: int = 0) -> Iterator[Line]:
    """Yield the lines of a stream.

    Args:
        max_line_bytes: of a longer line only the size and the digest are given.
        first_number: number of the first line.
    """
    number = first_number
    begun = _Begun(max_line_bytes)
    while block := stream.read(_BLOCK_BYTES):
        *ends, rest = block.split(b"\n")
        for piece in ends:
            if begun.is_empty and len(piece) <= max_line_bytes:
                yield Line(number, piece, len(piece))
            else:
                begun.add(piece)
                yield begun.finish(number)
            number += 1
        if rest:
            begun.add(rest)
    if not begun.is_empty:
        yield begun.finish(number)


class _Begun:
    """A line whose end has not come yet: its pieces, or their digest once they are too many."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._digest: Any = None

    @property
    def is_empty(self) -> bool:
        return self._size_bytes == 0

    def add(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._digest is None and self._size_bytes > self._max_bytes:
            self._digest = hashlib.sha256(b"".join(self._pieces))
            self._pieces.clear()
        if self._digest is None:
            self._pieces.append(piece)
        else:
            self._digest.update(piece)

    def finish(self, number: int) -> Line:
        is_kept = self._digest is None
        data = b"".join(self._pieces) if is_kept else None
        line = Line(number, data, self._size_bytes, "" if is_kept else self._digest.hexdigest())
        self._clear()
        return line


def scan_lines(path: Path, part_bytes: int) -> tuple[str, list[LineRange]]:
    """Read a plain file once and return its sha256 and the ranges of whole lines that it can be read in.

    Args:
        part_bytes: a range ends with the first line that ends so many bytes behind its beginning.
    """
    digest = hashlib.sha256()
    ranges: list[LineRange] = []
    first_byte = first_line = place = num_lines = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            while cut := block.find(b"\n", max(0, first_byte + part_bytes - 1 - place)) + 1:
                ranges.append(LineRange(first_byte, place + cut, first_line))
                first_byte, first_line = place + cut, num_lines + block.count(b"\n", 0, cut)
            place += len(block)
            num_lines += block.count(b"\n")
    if first_byte < place or not ranges:
        ranges.append(LineRange(first_byte, place, first_line))
    return digest.hexdigest(), ranges
