"""HTTP responses as archives keep them: head, transfer and content encodings undone with a bound, character set."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from data_recipes.warc_records import MAX_HEAD_BYTES, Fields, read_fields

_STATUS = re.compile(rb"HTTP/[0-9](?:\.[0-9])? ([0-9]{3})(?: [^\r\n]*)?")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*(?:["']\s*)?([\w.:+-]+)""", re.I)
_BLOCK_BYTES = 1 << 16

Reading = Callable[[int], bytes]


class UnreadableResponse(ValueError):
    """A response or its body is not as HTTP has it; `taken` is what was read of it."""

    def __init__(self, message: str, taken: bytes = b"") -> None:
        super().__init__(message)
        self.taken = taken


class TooLarge(ValueError):
    """A body is longer than the limit."""


@dataclass(frozen=True)
class Head:
    """Head of a response.

    Attributes:
        raw: its bytes, the empty line included.
        rest: what was read behind it, the beginning of the body.
    """

    status: int
    fields: Fields
    raw: bytes
    rest: bytes

    @property
    def media_type(self) -> str:
        """Such as `text/html`; empty where none is stated."""
        return self.fields.get("Content-Type").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """Name of the character set that it states; empty for none."""
        found = _CHARSET.search(self.fields.get("Content-Type"))
        return found[1] if found else ""

    @property
    def is_chunked(self) -> bool:
        """Whether the body is said to be in chunks."""
        return "chunked" in self.fields.get("Transfer-Encoding").lower()

    @property
    def coding(self) -> str:
        """The content encoding; `identity` for none."""
        return self.fields.get("Content-Encoding").strip().lower() or "identity"


def read_head(read: Reading) -> Head:
    """Read the head of a response.

    Args:
        read: gives the next bytes, at most as many as asked for; none at the end.

    Raises:
        UnreadableResponse: for what is none.
    """
    data = b""
    while (end := _END_OF_HEAD.search(data)) is None:
        piece = read(_BLOCK_BYTES) if len(data) <= MAX_HEAD_BYTES else b""
        if not piece:
            raise UnreadableResponse(f"its head does not end within {MAX_HEAD_BYTES} bytes", data)
        data += piece
    line, _, lines = data[: end.start()].partition(b"\n")
    status = _STATUS.fullmatch(line.rstrip(b"\r"))
    if status is None:
        raise UnreadableResponse("it has no status line", data)
    pairs = [(name, value) for name, value in read_fields(lines) if name]
    return Head(int(status[1]), Fields(pairs), data[: end.end()], data[end.end() :])


CODINGS = ("identity", "gzip", "x-gzip", "deflate")
"""Content encodings that can be undone."""


def without_chunks(body: bytes) -> bytes:
    """Return a body without the transfer encoding `chunked`; as it is where its first chunk has no length.

    Archives are in use that keep the header and store the body without its chunks.

    Raises:
        UnreadableResponse: for chunks that are cut short.
    """
    found = _CHUNK.match(body)
    if found is None:
        return body
    pieces: list[bytes] = []
    while found is not None:
        size_bytes = int(found[1], 16)
        if size_bytes == 0:
            return b"".join(pieces)
        end = found.end() + size_bytes
        if end > len(body):
            break
        pieces.append(body[found.end() : end])
        end += 2 if body.startswith(b"\r\n", end) else 1 if body.startswith(b"\n", end) else 0
        found = _CHUNK.match(body, end)
    raise UnreadableResponse("its chunks are cut short")


def without_coding(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Undo a content encoding, one of `CODINGS`.

    Raises:
        TooLarge: once more than `max_bytes` come out.
        UnreadableResponse: for a body that is cut short or damaged.
    """
    if coding == "identity":
        if len(body) > max_bytes:
            raise TooLarge
        return body
    # What HTTP calls deflate is zlib's form; some servers send the bare stream.
    is_bare = coding == "deflate" and not (len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0)
    bits = -zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS if coding == "deflate" else 16 + zlib.MAX_WBITS
    inflater = zlib.decompressobj(bits)
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise UnreadableResponse(f"its {coding} body is damaged") from None
    if len(data) > max_bytes:
        raise TooLarge
    if not inflater.eof:
        raise UnreadableResponse(f"its {coding} body is cut short")
    return data
