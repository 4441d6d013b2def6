"""From a response record to the bytes of its body: what is no page is named, what is wrong with one breaks a rule."""

import hashlib
from collections import Counter
from dataclasses import dataclass

from data_recipes.text import DAMAGED, OVERSIZED, UNPARSABLE
from data_recipes.warc_records import DeclaredDigest, Record, RecordReader
from data_recipes.web_pages import HTML_TYPES, PLAIN_TYPE
from data_recipes.web_responses import (
    CODINGS,
    Head,
    TooLarge,
    UnreadableResponse,
    without_chunks,
    without_coding,
)
from data_recipes.web_signals import site_file

_BLOCK_BYTES = 1 << 16
_OTHER_RECORDS = ("warcinfo", "request", "metadata", "resource", "conversion", "continuation")
CHECKED, NOT_CHECKED = "checked", "not checked"


@dataclass(frozen=True)
class Body:
    """Body of a response.

    Attributes:
        data: its bytes, encodings undone; empty where `broken` says which rule it breaks.
        sha256: digest of the payload as the record stores it, encodings and all.
    """

    data: bytes
    sha256: str
    broken: str = ""


def target_of(record: Record) -> str:
    """The address that a record is of; characters that are not printable as `%NN`."""
    address = record.fields.get("WARC-Target-URI").strip().removeprefix("<").removesuffix(">")
    if address.isprintable() and " " not in address:
        return address
    return "".join(
        letter if letter.isprintable() and letter != " " else "".join(f"%{byte:02X}" for byte in letter.encode())
        for letter in address
    )


def no_page(record: Record) -> str:
    """Return why a record holds no page, as far as its own header says; empty where it may hold one."""
    if record.kind != "response":
        if record.kind == "revisit":
            return "revisit record"
        return f"{record.kind} record" if record.kind in _OTHER_RECORDS else "record of another type"
    if record.fields.get("Content-Type").partition(";")[0].strip().lower() != "application/http":
        return "response that is not HTTP"
    if site_file(target_of(record)):
        return "robots.txt or tdmrep.json"
    return "page that the crawler cut off" if record.fields.get("WARC-Truncated") else ""


def no_page_response(head: Head) -> str:
    """Return why a response holds no page; empty where it does."""
    if head.status != 200:
        return "status other than 200"
    if head.media_type not in (*HTML_TYPES, PLAIN_TYPE):
        return "neither HTML nor plain text"
    return "" if head.coding in CODINGS else "content encoding other than gzip and deflate"


def read_body(reader: RecordReader, record: Record, head: Head, max_bytes: int, digests: Counter[str]) -> Body:
    """Read a record to its end and undo the encodings of its body.

    Args:
        max_bytes: longest body, encodings undone; of a longer one no more than twice as much is in memory.
        digests: counts those that were checked, and those that are written in a way that is not known.

    Raises:
        MalformedRecord: as `RecordReader.finish`.
    """
    payload, block = (DeclaredDigest(record.fields.get(f"WARC-{name}-Digest")) for name in ("Payload", "Block"))
    for name, declared in (("Payload", payload), ("Block", block)):
        if record.fields.get(f"WARC-{name}-Digest"):
            digests[CHECKED if declared.is_known else NOT_CHECKED] += 1
    block.update(head.raw)
    stored = _read_stored(reader, head, 2 * max_bytes if head.is_chunked else max_bytes, payload, block)
    if not block.fits() or not (payload.fits() or head.is_chunked):
        return Body(b"", stored.sha256, DAMAGED)
    if stored.broken:
        return stored
    try:
        plain = without_chunks(stored.data) if head.is_chunked else stored.data
        if not payload.fits() and not payload.fits_also(plain):
            return Body(b"", stored.sha256, DAMAGED)
        return Body(without_coding(plain, head.coding, max_bytes), stored.sha256)
    except TooLarge:
        return Body(b"", stored.sha256, OVERSIZED)
    except UnreadableResponse:
        return Body(b"", stored.sha256, UNPARSABLE if payload.fits() else DAMAGED)


def _read_stored(
    reader: RecordReader, head: Head, max_bytes: int, payload: DeclaredDigest, block: DeclaredDigest
) -> Body:
    """The body as it is stored, of which no more than `max_bytes` are kept."""
    digest = hashlib.sha256()
    pieces: list[bytes] = []
    size_bytes = 0
    piece = head.rest or reader.read(_BLOCK_BYTES)
    while piece:
        digest.update(piece)
        payload.update(piece)
        block.update(piece)
        size_bytes += len(piece)
        if size_bytes <= max_bytes:
            pieces.append(piece)
        else:
            pieces.clear()
        piece = reader.read(_BLOCK_BYTES)
    reader.finish()
    is_whole = size_bytes <= max_bytes
    return Body(b"".join(pieces), digest.hexdigest(), "" if is_whole else OVERSIZED)


def broken_block(reader: RecordReader, taken: bytes) -> Body:
    """Read a record to its end whose block is no HTTP response; the digest is that of its block.

    Args:
        taken: what was read of the block.

    Raises:
        MalformedRecord: as `RecordReader.finish`.
    """
    digest = hashlib.sha256(taken)
    while piece := reader.read(_BLOCK_BYTES):
        digest.update(piece)
    reader.finish()
    return Body(b"", digest.hexdigest(), UNPARSABLE)
