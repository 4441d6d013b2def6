"""Text statistics, taken in one reading of a document, and the quality rules that compare them with thresholds."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import Field

from provenance.config import Config

# Scripts written without spaces between words: kana, CJK ideographs, Thai, Lao, Myanmar, Khmer. A character of
# theirs counts as a word, so that thresholds made for spaced scripts do not throw such text away.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
# A reStructuredText directive (`.. automodule:: x`) or one of its options (`:members:`): what is left of a page
# whose prose a tool would have generated.
_DIRECTIVE = re.compile(r"(?:\.\. [\w:.-]+::|:[\w-]+:(?:\s|$))")


@dataclass(frozen=True)
class Statistics:
    """Numbers about one text; each becomes a column `stat_<name>` of the documents table.

    Attributes:
        num_chars: characters.
        num_words: runs of non-space characters; in scripts without spaces, characters.
        mean_word_length: non-space characters per word.
        alphabetic_share: letters and marks of any script among the non-space characters.
        symbol_to_word_ratio: symbols (Unicode categories S*) per word.
        duplicate_line_share: characters in repeated lines among the characters of all lines that are not blank.
        directive_line_share: directive lines among the lines that are not blank.
        num_special_tokens: places where the text spells one of the tokenizer's special tokens.
    """

    num_chars: int
    num_words: int
    mean_word_length: float
    alphabetic_share: float
    symbol_to_word_ratio: float
    duplicate_line_share: float
    directive_line_share: float
    num_special_tokens: int


STATISTIC_TYPES: dict[str, type[int] | type[float]] = dict(Statistics.__annotations__)
"""Type of every statistic, in column order."""


class QualityRules(Config):
    """Thresholds of the quality rules; a document that breaks one is dropped by the rule of that name."""

    max_num_special_tokens: Literal[0] = 0
    min_num_words: int = Field(default=30, ge=0)
    max_mean_word_length: float = Field(default=18.0, gt=0)
    min_alphabetic_share: float = Field(default=0.5, ge=0, le=1)
    max_symbol_to_word_ratio: float = Field(default=3.0, ge=0)
    max_duplicate_line_share: float = Field(default=0.65, ge=0, le=1)
    max_directive_line_share: float = Field(default=0.5, ge=0, le=1)


QUALITY_RULES: tuple[str, ...] = tuple(QualityRules.model_fields)
"""Names of the quality rules in the order in which they are applied."""


@dataclass(frozen=True)
class BrokenRule:
    """The first rule that a text breaks, with what was measured and what was allowed."""

    rule: str
    score: float
    threshold: float


def measure(text: str, special_tokens: Sequence[str] = ()) -> Statistics:
    """Take all statistics of a text.

    Args:
        text: normalised text.
        special_tokens: strings that the tokenizer would read as control tokens.
    """
    num_words = len(_WORD.findall(text))
    characters = Counter(text)
    num_solid = num_letters = num_symbols = 0
    for character, count in characters.items():
        category = _category(character)
        num_solid += count if category != " " else 0
        num_letters += count if category == "L" else 0
        num_symbols += count if category == "S" else 0
    lines = Counter(line for line in map(str.strip, text.split("\n")) if line)
    line_chars = sum(len(line) * count for line, count in lines.items())
    repeated_chars = sum(len(line) * (count - 1) for line, count in lines.items())
    num_lines = sum(lines.values())
    num_directives = sum(count for line, count in lines.items() if _DIRECTIVE.match(line))
    return Statistics(
        num_chars=len(text),
        num_words=num_words,
        mean_word_length=_ratio(num_solid, num_words),
        alphabetic_share=_ratio(num_letters, num_solid),
        symbol_to_word_ratio=_ratio(num_symbols, num_words),
        duplicate_line_share=_ratio(repeated_chars, line_chars),
        directive_line_share=_ratio(num_directives, num_lines),
        num_special_tokens=sum(text.count(token) for token in special_tokens),
    )


def broken_rule(statistics: Statistics, rules: QualityRules) -> BrokenRule | None:
    """Return the first quality rule that the statistics break, or None where they keep all."""
    for rule in QUALITY_RULES:
        side, _, statistic = rule.partition("_")
        score = float(getattr(statistics, statistic))
        threshold = float(getattr(rules, rule))
        if (score < threshold) if side == "min" else (score > threshold):
            return BrokenRule(rule, score, threshold)
    return None


@lru_cache(maxsize=65536)
def _category(character: str) -> Literal["L", "S", " ", "O"]:
    """Return L for letters and marks of any script, S for symbols, a space for white space, O for the rest."""
    if character.isspace():
        return " "
    major = unicodedata.category(character)[0]
    if major in "LM":
        return "L"
    return "S" if major == "S" else "O"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
