"""Lines taken out of texts, as C4 does with web pages (Raffel et al. 2020, JMLR 21:140, section 2.2).

Made for other scripts too. Where sentences have an end mark of their own (danda, shad, the Ethiopic full stop, ...) it
counts as one; what is written without spaces between words cannot be told short by its words, and Thai and others end
no sentence with a mark: lines of which more than half is in such scripts are judged by what they mention only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_recipes.rule_settings import LINE_RULES, LineRuleName, LineRules
from data_recipes.text import normalise
from data_recipes.text_kernels import TERMINAL_MARKS, UNSPACED_RANGES
from provenance.digests import sha256_bytes

_SENTENCE_TERMINAL = (  # Unicode 15, property Sentence_Terminal, of the Basic Multilingual Plane
    "\u0021\u002e\u003f\u0589\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a"
    "\u104b\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a\u1b5b"
    "\u1b5e\u1b5f\u1b7d\u1b7e\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c\u2e53\u2e54\u3002\ua4ff"
    "\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d\uaa5e\uaa5f\uaaf0\uaaf1\uabeb\ufe52\ufe56"
    "\ufe57\uff01\uff0e\uff1f\uff61"
)
_SHAD = "\u0f0d\u0f0e\u0f0f\u0f10\u0f11\u0f12"  # Tibetan
_CLOSING_QUOTES = "\u201c\u2018\u00ab\u2039\u203a\u300b\u3009\ufe42\ufe44"  # „German“, »Danish«, 《Chinese》
END_MARKS = frozenset(TERMINAL_MARKS + _SENTENCE_TERMINAL + _SHAD + _CLOSING_QUOTES)
"""What ends a sentence or a quotation, in any script."""
# NFC makes a semicolon of the Greek question mark; Armenian full stops are often typed as colons.
_LETTER_THEN_MARK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]+;$|[\u0531-\u058f]+:$")

# Tibetan, Tai, Balinese; Bopomofo, Yi, Javanese, Tai Viet, narrow kana.
_MORE_UNSPACED = (
    *((0x0F00, 0x0FFF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F)),
    *((0x3100, 0x312F), (0xA000, 0xA4CF), (0xA980, 0xA9DF), (0xAA80, 0xAADF), (0xFF65, 0xFF9F)),
)
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*UNSPACED_RANGES, *_MORE_UNSPACED))
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s\u1361{_UNSPACED}]+")  # U+1361 stands between Ethiopic words

_JAVASCRIPT = re.compile(r"(?<![^\W_])javascript(?![^\W_])", re.IGNORECASE)
_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_POLICY = re.compile("|".join(_PHRASES), re.IGNORECASE)


@dataclass(frozen=True)
class RemovedLines:
    """What one rule took out of a text.

    Attributes:
        num_chars: characters of these lines, without line breaks.
    """

    rule: LineRuleName
    num_lines: int
    num_chars: int


@dataclass(frozen=True)
class Thinned:
    """A text without the lines that break a rule.

    Attributes:
        text: what is left, in normal form; the text itself where nothing was taken out.
        removed: by rule, in the order of the rules; those that took nothing out are not named.
        sha256_before: digest of the text before, UTF-8.
    """

    text: str
    removed: tuple[RemovedLines, ...]
    sha256_before: str


def take_lines_out(text: str, rules: LineRules) -> Thinned:
    """Take out the lines of a text that break a rule; each is counted under the first that it breaks.

    Blank lines stay where they divide what is left.

    Args:
        text: a text in normal form.
    """
    kept: list[str] = []
    num_lines, num_chars = dict.fromkeys(LINE_RULES, 0), dict.fromkeys(LINE_RULES, 0)
    mentions = list(_mentions(text.lower(), rules))
    for line in text.split("\n"):
        rule = _broken(line, rules, mentions) if line else None
        if rule is None:
            kept.append(line)
        else:
            num_lines[rule] += 1
            num_chars[rule] += len(line)
    removed = tuple(RemovedLines(name, num_lines[name], num_chars[name]) for name in LINE_RULES if num_lines[name])
    before = sha256_bytes(text.encode("utf-8", "surrogatepass"))
    return Thinned(normalise("\n".join(kept)) if removed else text, removed, before)


def _mentions(lowered: str, rules: LineRules) -> Iterator[tuple[LineRuleName, re.Pattern[str]]]:
    """What lines are searched for; most texts mention nothing of it, which is told at once."""
    if rules.javascript and "javascript" in lowered:
        yield "javascript", _JAVASCRIPT
    if rules.policy and any(phrase in lowered for phrase in _PHRASES):
        yield "policy", _POLICY


def _broken(line: str, rules: LineRules, mentions: list[tuple[LineRuleName, re.Pattern[str]]]) -> LineRuleName | None:
    for name, pattern in mentions:
        if pattern.search(line):
            return name
    if not line.isascii() and _HAS_UNSPACED.search(line):
        words = _WORD.findall(line)
        if 2 * sum(len(word) == 1 and _HAS_UNSPACED.match(word) is not None for word in words) > len(words):
            return None
    ends = line[-1] in END_MARKS or (not line.isascii() and _LETTER_THEN_MARK.search(line) is not None)
    if rules.terminal_mark and not ends:
        return "terminal_mark"
    num_words = len(line.split()) if line.isascii() else len(_WORD.findall(line))
    return "min_num_words" if num_words < rules.min_num_words else None
