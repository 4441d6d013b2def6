"""Text statistics, all taken in one pass over a document, and the quality rules that compare them with thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from data_recipes.quality_presets import PRESETS, PresetName, thresholds_of
from data_recipes.rule_settings import PERSONAL_DATA_LIMITS, Kind
from provenance.config import Config

LANGUAGE_CHARS = 4000
"""Characters from the start of a text by which its language is told."""


@dataclass(frozen=True)
class Statistics:
    """Numbers about one text; each becomes a column `stat_<name>` of the documents table.

    A word is a run of non-space characters; in scripts without spaces, a character. A term is a word in lower case
    without what is neither letter, mark nor number at its ends. Lines and paragraphs (divided by blank lines) are
    counted where they are not blank, without white space at their ends. "Repeated" counts lines or paragraphs that
    occurred before; "duplicate" the characters in them. Runs of n terms (n-grams) are of 2n where more than half of
    the words are characters of scripts without spaces.

    Attributes:
        num_chars: characters.
        num_words: words.
        mean_word_length: non-space characters per word.
        alphabetic_share: letters and marks of any script among the non-space characters.
        symbol_to_word_ratio: symbols (Unicode categories S*) per word.
        duplicate_line_share: characters in repeated lines among the characters of all lines.
        directive_line_share: directive lines of reStructuredText among the lines: what is left of a page whose prose a
            tool would have generated.
        num_special_tokens: places where the text spells one of the tokenizer's special tokens.
        unspaced_share: characters of scripts without spaces among the words.
        alphabetic_word_share: words with a letter or mark.
        num_stop_words: how many of the, be, to, of, and, that, have, with occur.
        hash_to_word_ratio: `#` per word.
        ellipsis_to_word_ratio: `...` and `…` per word.
        line_break_to_word_ratio: line breaks per word.
        bullet_line_share, ellipsis_line_share, terminal_line_share, short_line_share: lines that begin with a bullet,
            end with an ellipsis, end with a mark that ends sentences or quotations, have fewer than 30 characters.
        javascript_line_share, policy_line_share: lines with the word javascript, with a phrase on cookies or policies.
        repeated_line_share, repeated_paragraph_share, duplicate_paragraph_share: see above.
        num_sentences: marks that end a sentence, before white space or in scripts without spaces.
        num_braces, num_lorem_ipsum: opening curly brackets; the words lorem ipsum.
        top_2gram_share ... top_4gram_share: characters in the most frequent n-gram (all its occurrences, where it has
            two or more; at most 1) among the characters of all terms.
        duplicate_5gram_share ... duplicate_10gram_share: characters in n-grams that occurred before, each counted once.
        num_emails, num_phone_numbers, num_ip_addresses, num_secrets: personal data found.
        language: code (CLD2, mostly ISO 639-1) of the main language; empty where it cannot be told.
        language_share: how much of the text is in it, between 0 and 1.
    """

    num_chars: int
    num_words: int
    mean_word_length: float
    alphabetic_share: float
    symbol_to_word_ratio: float
    duplicate_line_share: float
    directive_line_share: float
    num_special_tokens: int
    unspaced_share: float
    alphabetic_word_share: float
    num_stop_words: int
    hash_to_word_ratio: float
    ellipsis_to_word_ratio: float
    line_break_to_word_ratio: float
    bullet_line_share: float
    ellipsis_line_share: float
    terminal_line_share: float
    short_line_share: float
    javascript_line_share: float
    policy_line_share: float
    repeated_line_share: float
    repeated_paragraph_share: float
    duplicate_paragraph_share: float
    num_sentences: int
    num_braces: int
    num_lorem_ipsum: int
    top_2gram_share: float
    top_3gram_share: float
    top_4gram_share: float
    duplicate_5gram_share: float
    duplicate_6gram_share: float
    duplicate_7gram_share: float
    duplicate_8gram_share: float
    duplicate_9gram_share: float
    duplicate_10gram_share: float
    num_emails: int
    num_phone_numbers: int
    num_ip_addresses: int
    num_secrets: int
    language: str
    language_share: float


STATISTIC_TYPES: dict[str, type[int] | type[float] | type[str]] = dict(Statistics.__annotations__)
"""Type of every statistic, in column order."""

ENGLISH_RULES = frozenset({"min_num_stop_words"})
"""Rules that are not applied to a text that was found to be in another language."""
SPACED_RULES = frozenset(
    {"min_mean_word_length", "min_terminal_line_share", "max_short_line_share", "min_num_sentences"}
)
"""Rules that are not applied to a text of which more than half is in scripts without spaces."""


def _least(**bounds: Any) -> Any:
    return Field(default=None, ge=0, **bounds)


class QualityRules(Config):
    """Thresholds of the quality rules; a document that breaks one is dropped by the rule of that name.

    A rule whose threshold is null is not applied. `presets` gives published thresholds to all rules that the recipe
    does not set itself. `min_num_stop_words` is for English: it is not applied to a text in another language. Rules
    about the length of words and lines and about ends of sentences are not applied to a text of which more than half
    is in scripts without spaces.
    """

    presets: list[PresetName] = Field(default_factory=list)
    max_num_special_tokens: Literal[0] = 0
    min_num_words: int = Field(default=30, ge=0)
    max_mean_word_length: float = Field(default=18.0, gt=0)
    min_alphabetic_share: float = Field(default=0.5, ge=0, le=1)
    max_symbol_to_word_ratio: float = Field(default=3.0, ge=0)
    max_duplicate_line_share: float = Field(default=0.65, ge=0, le=1)
    max_directive_line_share: float = Field(default=0.5, ge=0, le=1)
    languages: list[str] | None = None
    min_language_share: float | None = _least(le=1)
    max_num_words: int | None = _least()
    min_mean_word_length: float | None = _least()
    min_alphabetic_word_share: float | None = _least(le=1)
    min_num_stop_words: int | None = _least(le=8)
    max_hash_to_word_ratio: float | None = _least()
    max_ellipsis_to_word_ratio: float | None = _least()
    max_line_break_to_word_ratio: float | None = _least()
    max_bullet_line_share: float | None = _least(le=1)
    max_ellipsis_line_share: float | None = _least(le=1)
    min_terminal_line_share: float | None = _least(le=1)
    max_short_line_share: float | None = _least(le=1)
    max_javascript_line_share: float | None = _least(le=1)
    max_policy_line_share: float | None = _least(le=1)
    min_num_sentences: int | None = _least()
    max_num_braces: int | None = _least()
    max_num_lorem_ipsum: int | None = _least()
    max_repeated_line_share: float | None = _least(le=1)
    max_repeated_paragraph_share: float | None = _least(le=1)
    max_duplicate_paragraph_share: float | None = _least(le=1)
    max_top_2gram_share: float | None = _least(le=1)
    max_top_3gram_share: float | None = _least(le=1)
    max_top_4gram_share: float | None = _least(le=1)
    max_duplicate_5gram_share: float | None = _least(le=1)
    max_duplicate_6gram_share: float | None = _least(le=1)
    max_duplicate_7gram_share: float | None = _least(le=1)
    max_duplicate_8gram_share: float | None = _least(le=1)
    max_duplicate_9gram_share: float | None = _least(le=1)
    max_duplicate_10gram_share: float | None = _least(le=1)
    max_num_emails: int | None = _least()
    max_num_phone_numbers: int | None = _least()
    max_num_ip_addresses: int | None = _least()
    max_num_secrets: int | None = _least()

    @model_validator(mode="before")
    @classmethod
    def _takes_presets(cls, values: Any) -> Any:
        """Fill in the thresholds of presets; what is no list of their names is left for validation to refuse."""
        presets = values.get("presets") if isinstance(values, Mapping) else None
        if not isinstance(presets, list) or not all(preset in PRESETS for preset in presets):
            return values
        return thresholds_of(presets) | dict(values)


QUALITY_RULES: tuple[str, ...] = tuple(name for name in QualityRules.model_fields if name != "presets")
"""Names of the quality rules in the order in which they are applied."""


@dataclass(frozen=True)
class BrokenRule:
    """The first rule that a text breaks, with what was measured and what was allowed (None for a list of names)."""

    rule: str
    score: float
    threshold: float | None


def measure(text: str, special_tokens: Sequence[str] = ()) -> Statistics:
    """Take all statistics of a text.

    Args:
        text: normalised text.
        special_tokens: strings that the tokenizer would read as control tokens.
    """
    from data_recipes.text_reading import read_text  # numba takes a while, and who only reads a recipe needs none

    return read_text(text, special_tokens).statistics


def rules_left_out(language: str, unspaced_share: float) -> frozenset[str]:
    """Return the quality rules that say nothing of a text in such a language and script."""
    skipped = ENGLISH_RULES if language not in ("", "en") else frozenset[str]()
    return skipped | SPACED_RULES if unspaced_share > 0.5 else skipped


def broken_rule(statistics: Statistics, rules: QualityRules) -> BrokenRule | None:
    """Return the first quality rule that the statistics break, or None where they keep all."""
    skipped = rules_left_out(statistics.language, statistics.unspaced_share)
    for rule in QUALITY_RULES:
        threshold = getattr(rules, rule)
        if threshold is None or rule in skipped:
            continue
        if rule == "languages":
            if statistics.language not in threshold:
                return BrokenRule(rule, statistics.language_share, None)
            continue
        side, _, statistic = rule.partition("_")
        score = float(getattr(statistics, statistic))
        if (score < threshold) if side == "min" else (score > threshold):
            return BrokenRule(rule, score, float(threshold))
    return None


def broken_personal_data_limit(num_found: Mapping[Kind, int], rules: QualityRules) -> str:
    """Return the first limit on personal data that an example of `chats` breaks; empty where it breaks none.

    Args:
        num_found: places with personal data in all turns together, by kind.
    """
    for kind, rule in PERSONAL_DATA_LIMITS.items():
        limit = getattr(rules, rule)
        if limit is not None and num_found.get(kind, 0) > limit:
            return rule
    return ""
