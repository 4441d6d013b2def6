"""Personal data and secrets in texts: e-mail addresses, telephone numbers, public IP addresses, keys.

The pass over the text (`data_recipes.text_kernels`) marks the few lines in which one may stand; only these are looked
at again. What is made up by design is left alone: reserved example domains, addresses that are not public. These are
heuristics: they miss some and take some numbers for telephone numbers.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_recipes.rule_settings import KINDS, Kind
from data_recipes.text_kernels import HAS_ADDRESS, HAS_AT, HAS_DIGITS, HAS_TOKEN, Segments
from provenance.digests import sha256_bytes

PLACEHOLDERS: dict[Kind, str] = {"email": "[EMAIL]", "phone": "[PHONE]", "ip": "[IP]", "secret": "[SECRET]"}

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9-])"
)
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)$", re.I)  # RFC 2606
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}"  # international
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w.-]*\d)",  # North American
    re.ASCII,
)
_PHONE_DIGITS = range(8, 16)  # E.164 allows 15
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]{0,40}:[0-9A-Fa-f:.]{1,40})(?![\w:]|\.\d)", re.ASCII
)
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?<!EXAMPLE)"  # Amazon; its documentation's own key ends in EXAMPLE
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,255}|sk_live_[A-Za-z0-9]{20,64}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{34}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"  # JSON web token
    r")(?![A-Za-z0-9])"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,24}PRIVATE KEY)-----[\sA-Za-z0-9+/=:,-]{16,8192}?-----END \1-----")


@dataclass(frozen=True, order=True)
class Span:
    """A place in a text, in characters of the text as it was before anything was redacted."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class Redaction:
    """A text after redaction.

    Attributes:
        text: with a placeholder for each span.
        spans: what was replaced, in characters of the text before.
        sha256_before: digest of the text before, UTF-8.
    """

    text: str
    spans: tuple[Span, ...]
    sha256_before: str


def find_personal_data(text: str, segments: Segments) -> tuple[Span, ...]:
    """Find personal data, in order and without overlap.

    Args:
        text: the text.
        segments: what `segment` found in it.
    """
    spans: list[Span] = []
    for start, end, mask in segments.marked_lines.tolist():
        for span in sorted(_spans_of_line(text, start, end, mask)):
            if not spans or span.start >= spans[-1].end:
                spans.append(span)
    return tuple(spans)


def redact(text: str, spans: Sequence[Span], kinds: Sequence[Kind] = KINDS) -> Redaction:
    """Put placeholders in the place of spans of some kinds; the digest of the text before is kept with them."""
    chosen = tuple(span for span in spans if span.kind in kinds)
    pieces, done = [], 0
    for span in chosen:
        pieces += [text[done : span.start], PLACEHOLDERS[span.kind]]
        done = span.end
    return Redaction("".join([*pieces, text[done:]]), chosen, sha256_bytes(text.encode("utf-8", "surrogatepass")))


def _spans_of_line(text: str, start: int, end: int, mask: int) -> Iterator[Span]:
    if mask & HAS_TOKEN:
        for match in _PRIVATE_KEY.finditer(text, start, min(len(text), end + 8192)):
            if match.start() < end:
                yield Span(*match.span(), "secret")
        for match in _SECRET.finditer(text, start, end):
            yield Span(*match.span(), "secret")
    if mask & HAS_AT:
        for match in _EMAIL.finditer(text, start, end):
            if not _RESERVED_DOMAIN.search(match.group(1)):
                yield Span(*match.span(), "email")
    if mask & HAS_ADDRESS:
        for match in _ADDRESS.finditer(text, start, end):
            if _is_public(match.group()):
                yield Span(*match.span(), "ip")
    if mask & HAS_DIGITS:
        for match in _PHONE.finditer(text, start, end):
            if sum(character.isdigit() for character in match.group()) in _PHONE_DIGITS:
                yield Span(*match.span(), "phone")


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
