"""A writer of web archives that shares nothing with the reader: records put together as the WARC standard has them."""

import base64
import gzip
import hashlib
from typing import Any

from corpus_fixtures import AS_OF, prose

from provenance.digests import sha256_file

CC_BY = "https://creativecommons.org/licenses/by/4.0/"


def digest(data, algorithm="sha1"):
    return f"{algorithm}:" + base64.b32encode(hashlib.new(algorithm, data).digest()).decode().rstrip("=")


def record(kind, uri, block, *, content_type="application/http; msgtype=response", version="1.0", **fields):
    """One record; `fields` with underscores for hyphens replace or add header fields, None removes one."""
    values = {
        "WARC-Type": kind, "WARC-Record-ID": "<urn:uuid:12345678-1234-1234-1234-123456789abc>",
        "WARC-Date": "2026-11-24T00:00:00Z", "WARC-Target-URI": uri, "Content-Type": content_type,
        "Content-Length": len(block), **{name.replace("_", "-"): value for name, value in fields.items()},
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in values.items() if value is not None)
    return f"WARC/{version}\r\n{lines}\r\n".encode() + block + b"\r\n\r\n"


def http(body, *, status="200 OK", content_type="text/html; charset=utf-8", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def response(uri, body, *, fields=None, digests=True, stored=None, **head):
    """A response record with the digests of its payload and block.

    Args:
        stored: the body as it is stored, where that is not `body`.
    """
    payload = body if stored is None else stored
    block = http(payload, **head)
    named = {"WARC_Payload_Digest": digest(payload), "WARC_Block_Digest": digest(block)} if digests else {}
    return record("response", uri, block, **{**named, **(fields or {})})


def html(text, *, head=""):
    """A page whose main content is a text, with a menu around it."""
    paragraphs = "".join(f"<p>{paragraph}</p>" for paragraph in text.strip().split("\n\n"))
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/b'>Other pages</a></li></ul></nav>"
    return (
        f"<!DOCTYPE html><html><head><title>A page</title>{head}</head><body>{menu}<main><article>{paragraphs}"
        "</article></main><footer>The footer of the site</footer></body></html>"
    )


def page(uri, seed, *, head=f'<link rel="license" href="{CC_BY}">', script="latin", encoding="utf-8", **values):
    return response(uri, html(prose(seed, script=script), head=head).encode(encoding), **values)


def members(*records):
    """A gzip member for each record."""
    return b"".join(gzip.compress(data, mtime=0) for data in records)


def warc_source(directory, archives, **changes: Any) -> dict[str, Any]:
    """Write archives, bytes by file name, and return their entry for a recipe."""
    for name, data in archives.items():
        (directory / name).write_bytes(data)
    entry = {
        "type": "warc",
        "name": "web",
        "files": [{"path": name, "sha256": sha256_file(directory / name)} for name in archives],
        "split": "train",
        "as_of": AS_OF,
        "obtained_from": "the test",
    }
    return {**entry, **changes}
