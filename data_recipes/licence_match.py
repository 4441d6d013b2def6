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
_LIST_MARK = re.compile(r"(?<!\S)\(?(?:\d{1,2}(?:\.\d{1,2})*|[a-z]|[ivx]{1,5})[.)](?!\S)", re.I)
_COPYRIGHT = re.compile(r"^\W*(?:portions\s+)?(?:copyright\b|\(c\)|©|\|copy\|)", re.I)
_NOTICE_LINE = re.compile(r"^[\s#*/.;:>-]*(?:[Pp]ortions\s+)?(?:Copyright\s|COPYRIGHT\s|\([cC]\)|©|\|copy\|)")
_MARKUP = re.compile(r"^\s*(?:::|\.\. _[\w-]+:|\.\. code(?:-block)?::.*|:orphan:|```\w*|[-=~*#_+]{3,})\s*$")
_TERMS = re.compile(
    r"\b(?:licen[cs]\w*|permi\w+|grant\w*|redistribut\w*|distribut\w*|use|used|uses|using|modif\w*|subject|terms?"
    r"|conditions?|must|may|shall|except|warrant\w*|commercial\w*|restrict\w*|prohibit\w*|forbid\w*|not|only)\b",
    re.I,
)
_AND_OTHERS = re.compile(r"and (?:the )?(?:others?|individual contributors|contributors)\b.*", re.I)
_RIGHTS_RESERVED = re.compile(r"\W*all\s+rights\s+reserved\W*|\W*reserved\W*", re.I)
_TITLE_TAIL = (
    r"(?: public)?(?: license)?(?: agreement)?(?: (?:mit|expat|bsd|isc|iscl|zpl|psf|gpl|lgpl|cmu))?"
    r"(?: v?(?:ersion)? ?[\d ]+)?(?: \d{1,2})?(?: (?:january|june|february|november|august)(?: \d{1,2}(?:th)?)? \d{4})?"
)
_PLAIN_TITLE = re.compile(
    r"(?:the )?(?:license|copyright|appendix copyright|copyright and license|license text|legal code"
    r"|version 2 0 january 2004|version 2 june 1991"
    r"|version 3 (?:29 june|19 november) 2007|version 2 1 february 1999|definitions"
    r"|http www apache org licenses(?: license 2 0)?)"
)
_SENTENCE_HEAD = (
    r"(?:this is (?:the )?|(?:\S+ ){1,6}?(?:is|are) (?:distributed|licensed|released|available|made available) "
    r"(?:with|under|by)(?: the terms of)? (?:the )?)"
)
_ADDRESS = re.compile(r"<?https?://\S+")


@dataclass(frozen=True)
class TextMatch:
    """A licence file that is a known text.

    Attributes:
        spdx: identifier of the text; for the GNU licences without `-only` or `-or-later`, which no text can tell.
        copyright: its copyright lines, in order, without duplicates.
    """

    spdx: str
    copyright: tuple[str, ...]


def words_of(line: str, *, list_marks: bool = False) -> list[str]:
    """Level a line: NFKC, lower case, one spelling of licence, holder and https, no punctuation.

    Args:
        line: one line.
        list_marks: keep `2.`, `(b)` and `iv)`, which mark list items but also end sentences ("version 2.").
    """
    text = unicodedata.normalize("NFKC", line if list_marks else _LIST_MARK.sub(" ", line)).lower()
    text = text.replace("licence", "license").replace("https:", "http:")
    return _WORD.findall(text)


def levelled(text: str, *, list_marks: bool = False) -> str:
    """Level a whole text into words with single spaces between them."""
    words = " ".join(word for line in text.splitlines() for word in words_of(line, list_marks=list_marks))
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
        if leading is not None and (body[:at].strip() == _known_leading(spdx) or _is_plain_leading(leading, template)):
            return TextMatch(spdx, copyright_lines("\n".join(leading)))
    return None


def contains_text_of(page: str, licence_file: str) -> bool:
    """Whether a documentation page repeats a licence file word for word."""
    return bool(licence_file.strip()) and f" {levelled(licence_file)} " in f" {levelled(page)} "


def copyright_lines(text: str, *, with_names_below: bool = True) -> tuple[str, ...]:
    """Collect copyright lines, in order, without duplicates.

    Args:
        text: a licence file or a header.
        with_names_below: also the lines below them in the same paragraph, which hold more names in known licence
            texts; elsewhere running text may begin with the word, and only plain notices are taken.
    """
    found: dict[str, None] = {}
    inside = False
    for line in text.splitlines():
        if not line.strip():
            inside = False
        elif _COPYRIGHT.match(line):
            inside = with_names_below or (_NOTICE_LINE.match(line) is not None and not _TERMS.search(line))
        elif inside and (not with_names_below or _TERMS.search(line) or _MARKUP.match(line)):
            inside = False
        if inside and not _RIGHTS_RESERVED.fullmatch(line):
            found[" ".join(line.strip(" \t#*/.;").split())] = None
    return tuple(line for line in found if line and len(line) <= 500)


def has_terms(text: str) -> bool:
    """Whether a text speaks of permissions or conditions at all, beyond reserving rights."""
    return any(_TERMS.search(_COPYRIGHT.sub("", line)) for line in text.splitlines())


@cache
def _known_words(spdx: str) -> tuple[str, str]:
    """Levelled words of the known text before and from its start."""
    words = levelled((TEXTS_DIRECTORY / f"{spdx}.txt").read_text(encoding="utf-8"))
    at = f" {words}".find(f" {TEMPLATES[spdx].start} ")
    assert at >= 0, f"{spdx}: the start is not in the known text"
    return words[:at].strip(), words[at:]


def _known_leading(spdx: str) -> str:
    return _known_words(spdx)[0]


@cache
def _pattern(spdx: str) -> re.Pattern[str]:
    """Compile the known text from its start into a pattern with its holes and optional tails."""
    template = TEMPLATES[spdx]
    body = _known_words(spdx)[1]
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
    inside = holders = False
    for line in lines:
        words = " ".join(words_of(line))
        if not words:
            inside = inside and bool(line.strip())
        elif _COPYRIGHT.match(line) and not _TERMS.search(_COPYRIGHT.sub("", line)):
            inside = holders = True
        elif holders and _AND_OTHERS.fullmatch(line.strip()) and not _TERMS.search(line):
            inside = True
        elif (
            _MARKUP.match(line)
            or _PLAIN_TITLE.fullmatch(words)
            or title.fullmatch(words)
            or sentence.fullmatch(" ".join(words_of(_ADDRESS.sub("", line))))
            or _RIGHTS_RESERVED.fullmatch(line)
        ):
            inside = False
        elif not inside or _TERMS.search(line):
            return False
    return True
