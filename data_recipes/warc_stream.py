"""The bytes of a web archive: a plain file, or gzip members one after another, inflated as a stream.

A member holds one or more whole records, as the annex of the WARC standard has it; reading never runs from one member
into the next, so that what is wrong in one is known to end there. No more than a block or two is in memory.
"""

import hashlib
import re
import zlib
from typing import BinaryIO

_BLOCK_BYTES = 1 << 16
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"


class DamagedArchive(ValueError):
    """The archive cannot be read on from here."""


class ArchiveStream:
    """Reads members; a plain file counts as one.

    Args:
        file: opened for reading at its beginning.

    Attributes:
        is_compressed: whether it is made of gzip members.
        member_offset: where the member that is read begins in the file.
        position: how many bytes of it, inflated, were taken.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._input = file.read(_BLOCK_BYTES)
        self._end_of_input = len(self._input)
        self._inflater = zlib.decompressobj(_GZIP)
        self._data, self._taken = b"", 0
        self._is_begun = False
        self.is_compressed = self._input.startswith(_MAGIC)
        self.member_offset = self.position = 0

    @property
    def place(self) -> str:
        """Where the next byte stands: the offset of its member, with `+` and how far into it unless it is the first.

        In a plain file the offset of the byte itself.
        """
        if not self.is_compressed:
            return str(self.position)
        return f"{self.member_offset}+{self.position}" if self.position else str(self.member_offset)

    def next_member(self) -> bool:
        """Go on to the next member, once the one before is read to its end; False where there is none.

        Raises:
            DamagedArchive: as `read`.
        """
        self._refill_input()
        if not self._input or (self._is_begun and not self.is_compressed):
            return False
        self.member_offset = self._end_of_input - len(self._input)
        self.position, self._is_begun = 0, True
        self._inflater = zlib.decompressobj(_GZIP)
        return True

    def _refill_input(self) -> None:
        if not self._input:
            self._input = self._file.read(_BLOCK_BYTES)
            self._end_of_input += len(self._input)

    def read(self, size: int) -> bytes:
        """Return the next bytes of the member, at most `size`; none at its end.

        Raises:
            DamagedArchive: for what is no gzip, has another checksum or ends within a member.
        """
        if self._taken == len(self._data):
            self._data, self._taken = self._more(), 0
        piece = self._data[self._taken : self._taken + size]
        self._taken += len(piece)
        self.position += len(piece)
        return piece

    def read_until(self, end: bytes, max_bytes: int) -> bytes | None:
        """Return the bytes up to `end`, and that with them; None, with nothing taken, where it does not come.

        Args:
            max_bytes: how far it is looked for, at least, within the member.
        """
        while (cut := self._data.find(end, self._taken)) < 0:
            if len(self._data) - self._taken > max_bytes or not self._extend():
                return None
        return self.read(cut + len(end) - self._taken) if cut - self._taken <= max_bytes else None

    def peek(self, size: int) -> bytes:
        """Return the next bytes of the member without taking them; fewer than `size` only at its end."""
        while len(self._data) - self._taken < size and self._extend():
            pass
        return self._data[self._taken : self._taken + size]

    def _extend(self) -> bool:
        more = self._more()
        self._data, self._taken = self._data[self._taken :] + more, 0
        return bool(more)

    def _more(self) -> bytes:
        """The next bytes of the member, not empty but at its end."""
        if not self.is_compressed:
            self._refill_input()
            data, self._input = self._input, b""
            return data
        while not self._inflater.eof:
            self._refill_input()
            is_last = not self._input
            try:
                data = self._inflater.decompress(self._input, _BLOCK_BYTES)
            except zlib.error as error:
                raise DamagedArchive(f"the gzip member at {self.member_offset} is damaged ({error})") from None
            self._input = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if data:
                return data
            if is_last and not self._inflater.eof:
                raise DamagedArchive(f"the file ends within the gzip member at {self.member_offset}")
        return b""

    def read_again(self, marker: re.Pattern[bytes], marker_bytes: int) -> tuple[str, bool]:
        """Read the member from its beginning to its end.

        Args:
            marker: looked for in the inflated member, behind its first byte.
            marker_bytes: its length.

        Returns:
            The digest of the member's bytes as they stand in the file, compressed, and whether there is a marker.
        """
        self._file.seek(self.member_offset)
        self._input, self._end_of_input = b"", self.member_offset
        self._data, self._taken = b"", 0
        self._inflater = zlib.decompressobj(_GZIP)
        is_found, window, num_bytes = False, b"", 0
        while piece := self.read(_BLOCK_BYTES):
            window = window[1 - marker_bytes :] + piece
            num_bytes += len(piece)
            is_found = is_found or marker.search(window, int(num_bytes == len(window))) is not None
        return self._digest_to_here(), is_found

    def _digest_to_here(self) -> str:
        """Digest of the file from the beginning of the member to where it was read."""
        left = self._end_of_input - len(self._input) - self.member_offset
        digest = hashlib.sha256()
        self._file.seek(self.member_offset)
        while left:
            block = self._file.read(min(left, _BLOCK_BYTES))
            digest.update(block)
            left -= len(block)
        self._file.seek(self._end_of_input)
        return digest.hexdigest()
