"""From bytes to the text of a document: decoding and the one normal form that is hashed and trained on."""

import re
import unicodedata

from data_recipes.document import Document, LicenceFinding
from provenance.digests import sha256_bytes

OVERSIZED = "oversized"
UNDECODABLE = "undecodable"
UNPARSABLE = "unparsable"
DAMAGED = "damaged"
READING_RULES = (OVERSIZED, UNDECODABLE, UNPARSABLE, DAMAGED)
"""Rules that drop a document before any text can be judged; its text is then empty."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufffe\uffff]")
_ASCII_CONTROL = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), 0x7F])
_BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """Return a text in the form that is hashed and trained on.

    NFC, newlines as `\\n`, tabs expanded, no control characters or lone surrogates, no trailing white space, at most
    one blank line in a row, none at either end.
    """
    # Every step looks first whether it has anything to do: this is most of what reading rows costs.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\f", "\n")
    if text.isascii():
        text = text.translate(_ASCII_CONTROL)
    else:
        text = _CONTROL.sub("", text.replace("\u2028", "\n").replace("\u2029", "\n"))
    text = unicodedata.normalize("NFC", text.expandtabs(4))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def decode(raw: bytes, max_bytes: int) -> tuple[str, str]:
    """Return the characters of UTF-8 bytes and an empty rule; or an empty text and the rule that they break.

    Args:
        max_bytes: longest document that is read, `ReadingLimits.max_document_bytes`.
    """
    if len(raw) > max_bytes:
        return "", OVERSIZED
    try:
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError:
        return "", UNDECODABLE


def decode_text(raw: bytes, max_bytes: int) -> tuple[str, str]:
    """Return the normalised text of UTF-8 bytes; else as `decode`."""
    text, broken = decode(raw, max_bytes)
    return normalise(text), broken


def make_document(
    source: str, source_digest: str, path: str, kind: str, text: str, raw: bytes, licence: LicenceFinding
) -> Document:
    """Build a document from its normalised text and the bytes it was taken from."""
    text_sha256 = sha256_bytes(text.encode("utf-8"))
    return Document(source, source_digest, path, kind, text, sha256_bytes(raw), text_sha256, licence)
