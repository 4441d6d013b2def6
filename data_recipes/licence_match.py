"""Match a licence file against known licence texts: word for word, with holes only where names stand.

A file matches when, after case, white space, punctuation and list marks are levelled, it is the known text from its
first word to its last. Before the text may stand only its titles, copyright lines, and a sentence of the form "X is
distributed under the Y licence" that names the same licence; behind it only its own appendix. There is no score.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data_recipes.licence_templates import TEMPLATES, Template

TEXTS_DIRECTORY = Path(__file__).parent / "licence_texts"
"""Full texts by SPDX identifier, as they also go into releases."""

MAX_TEXT_BYTES = 256 * 1024
"""A licence file longer than this is no licence text."""

_WORD = re.compile(r"[^\W_]+")
_BULLET = re.compile(r"^\s*(?:[-*•]\s+|\(?(?:\d{1,2}|[a-z]|[ivx]{1,5})[.)]\s+)", re.I)
_COPYRIGHT = re.compile(r"^\W*(?:portions\s+)?(?:copyright\b|\(c\)|©|\|copy\|)", re.I)
_MARKUP = re.compile(r"^\s*(?:::|\.\. _[\w-]+:|\.\. code(?:-block)?::.*|```\w*|[-=~*#_+]{3,})\s*$")
_TERMS = re.compile(
    r"\b(?:licen[cs]\w*|permi\w+|grant\w*|redistribut\w*|distribut\w*|use|used|uses|using|modif\w*|subject|terms?"
    r"|conditions?|must|may|shall|except|warrant\w*|commercial\w*|restrict\w*|prohibit\w*|forbid\w*|not|only)\b",
    re.I,
)
_RIGHTS_RESERVED = re.compile(r"\W*all\s+rights\s+reserved\W*|\W*reserved\W*", re.I)
_TITLE_TAIL = (
    r"(?: public)?(?: license)?(?: agreement)?(?: (?:mit|expat|bsd|isc|iscl|zpl|psf|gpl|lgpl|cmu))?"
    r"(?: v?(?:ersion)? ?[\d ]+)?(?: \d{1,2})?(?: (?:january|june|february|november|august)(?: \d{1,2})? \d{4})?"
)
_PLAIN_TITLE = re.compile(
    r"(?:the )?(?:license|copyright|copyright and license|license text|legal code|version 2 0 january 2004"
    r"|version 2 june 1991|version 3 (?:29 june|19 november) 2007|version 2 1 february 1999|1 definitions|definitions"
    r"|http www apache org licenses(?: license 2 0)?)"
)
_SENTENCE_HEAD = (
    r"(?:\S+ ){1,6}?(?:is|are) (?:distributed|licensed|released|provided|available|made available|covered) "
    r"(?:with|under|by)(?: the terms of)? (?:the )?"
)


@dataclass(frozen=True)
class TextMatch:
    """A licence file that is a known text.

    Attributes:
        spdx: identifier of the text; for the GNU licences without `-only` or `-or-later`, which no text can tell.
        copyright: its copyright lines, in order, without duplicates.
    """

    spdx: str
    copyright: tuple[str, ...]


def words_of(line: str) -> list[str]:
    """Level a line: NFKC, lower case, one spelling of licence, holder and https, no punctuation, no list mark."""
    text = unicodedata.normalize("NFKC", _BULLET.sub("", line)).lower()
    text = text.replace("licence", "license").replace("https:", "http:").replace("copyright owner", "copyright holder")
    return _WORD.findall(text)


def levelled(text: str) -> str:
    """Level a whole text into words with single spaces between them."""
    words = " ".join(word for line in text.splitlines() for word in words_of(line))
    return words.replace("copyright owner", "copyright holder")


def match_text(text: str) -> TextMatch | None:
    """Return the known licence that this text is, or None.

    Args:
        text: a licence file, or the uncommented header of a source file.
    """
    if len(text) > MAX_TEXT_BYTES:
        return None
    lines = text.splitlines()
    body = levelled(text)
    for spdx, template in TEMPLATES.items():
        at = f" {body}".find(f" {template.start} ")
        if at < 0 or _pattern(spdx).fullmatch(body, at) is None:
            continue
        leading = _leading_lines(lines, body[:at].split())
        if leading is not None and _is_plain_leading(leading, template):
            return TextMatch(spdx, copyright_lines("\n".join(leading)))
    return None


def contains_text_of(page: str, licence_file: str) -> bool:
    """Whether a documentation page repeats a licence file word for word."""
    return bool(licence_file.strip()) and f" {levelled(licence_file)} " in f" {levelled(page)} "


def copyright_lines(text: str) -> tuple[str, ...]:
    """Collect copyright lines with the names below them in the same paragraph, in order, without duplicates."""
    found: dict[str, None] = {}
    inside = False
    for line in text.splitlines():
        if not line.strip():
            inside = False
        elif _COPYRIGHT.match(line):
            inside = True
        elif inside and (_TERMS.search(line) or _MARKUP.match(line)):
            inside = False
        if inside and not _RIGHTS_RESERVED.fullmatch(line):
            found[" ".join(line.strip(" \t#*/.;").split())] = None
    return tuple(line for line in found if line and len(line) <= 500)


def has_terms(text: str) -> bool:
    """Whether a text speaks of permissions or conditions at all, beyond reserving rights."""
    return any(_TERMS.search(_COPYRIGHT.sub("", line)) for line in text.splitlines())


@cache
def _pattern(spdx: str) -> re.Pattern[str]:
    """Compile the known text from its start into a pattern with its holes and optional tails."""
    template = TEMPLATES[spdx]
    words = levelled((TEXTS_DIRECTORY / f"{spdx}.txt").read_text(encoding="utf-8"))
    at = f" {words}".find(f" {template.start} ")
    assert at >= 0, f"{spdx}: the start is not in the known text"
    body = words[at:]
    places = [place for tail in template.tails if (place := body.find(tail)) > 0]
    pieces = [body[begin:end].strip() for begin, end in zip([0, *places], [*places, None], strict=True)]
    pattern = ""
    for number, piece in enumerate(reversed(pieces)):
        for known, allowed in template.holes:
            piece = re.sub(known, lambda _, allowed=allowed: allowed, piece)  # type: ignore[misc]
        last = number == len(pieces) - 1
        pattern = f"{piece}{pattern}" if last else f"(?: {piece}{pattern})?"
    return re.compile(pattern)


def _leading_lines(lines: list[str], leading_words: list[str]) -> list[str] | None:
    """Return the lines that hold exactly these first words; None where the text begins in the middle of a line."""
    left = len(leading_words)
    for number, line in enumerate(lines):
        if left <= 0:
            return lines[:number] if left == 0 else None
        left -= len(words_of(line))
    return lines if left == 0 else None


def _is_plain_leading(lines: list[str], template: Template) -> bool:
    title = re.compile(rf"(?:the )*{template.title}{_TITLE_TAIL}")
    sentence = re.compile(rf"{_SENTENCE_HEAD}{template.title}{_TITLE_TAIL}")
    inside = False
    for line in lines:
        words = " ".join(words_of(line))
        if not words:
            inside = inside and bool(line.strip())
        elif _COPYRIGHT.match(line) and not _TERMS.search(_COPYRIGHT.sub("", line)):
            inside = True
        elif (
            _MARKUP.match(line)
            or _PLAIN_TITLE.fullmatch(words)
            or title.fullmatch(words)
            or sentence.fullmatch(words)
            or _RIGHTS_RESERVED.fullmatch(line)
        ):
            inside = False
        elif not inside or _TERMS.search(line):
            return False
    return True
