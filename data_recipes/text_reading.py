"""A document read once: its words, lines and paragraphs, and all statistics from them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pycld2

from data_recipes import text_kernels as kernels
from data_recipes.filters import LANGUAGE_CHARS, Statistics
from data_recipes.personal_data import Span, find_personal_data
from data_recipes.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS, ngram_chars, repeated_runs


@dataclass(frozen=True)
class TextReading:
    """What one pass over a text found.

    Attributes:
        statistics: all numbers.
        segments: its terms, lines and paragraphs, from which signatures and contamination are found too.
        personal_data: where personal data stands.
    """

    statistics: Statistics
    segments: kernels.Segments
    personal_data: tuple[Span, ...]


def read_text(text: str, special_tokens: Sequence[str] = ()) -> TextReading:
    """Read a text and take all its statistics.

    Args:
        text: normalised text.
        special_tokens: strings that the tokenizer would read as control tokens.
    """
    segments = kernels.segment(text)
    counts: list[int] = segments.counts.tolist()
    num_words, num_solid, num_lines = counts[kernels.NUM_WORDS], counts[kernels.NUM_SOLID], counts[kernels.NUM_LINES]
    unspaced_share = _ratio(counts[kernels.NUM_UNSPACED], num_words)
    num_term_chars, run_chars = ngram_chars(segments, 2 if unspaced_share > 0.5 else 1)
    shares = [_ratio(chars, num_term_chars) for chars in run_chars.tolist()]
    repeated_lines, repeated_line_chars = repeated_runs(*segments.lines)
    repeated_paragraphs, repeated_paragraph_chars = repeated_runs(*segments.paragraphs)
    personal_data = find_personal_data(text, segments)
    kinds = Counter(span.kind for span in personal_data)
    language, language_share = identify_language(text)

    def per_line(place: int) -> float:
        return _ratio(counts[place], num_lines)

    statistics = Statistics(
        num_chars=len(text),
        num_words=num_words,
        mean_word_length=_ratio(num_solid, num_words),
        alphabetic_share=_ratio(counts[kernels.NUM_LETTERS], num_solid),
        symbol_to_word_ratio=_ratio(counts[kernels.NUM_SYMBOLS], num_words),
        duplicate_line_share=_ratio(repeated_line_chars, counts[kernels.NUM_LINE_CHARS]),
        directive_line_share=per_line(kernels.NUM_DIRECTIVES),
        num_special_tokens=sum(text.count(token) for token in special_tokens),
        unspaced_share=unspaced_share,
        alphabetic_word_share=_ratio(counts[kernels.NUM_LETTER_WORDS], num_words),
        num_stop_words=counts[kernels.NUM_STOP_WORDS],
        hash_to_word_ratio=_ratio(counts[kernels.NUM_HASHES], num_words),
        ellipsis_to_word_ratio=_ratio(counts[kernels.NUM_ELLIPSES], num_words),
        line_break_to_word_ratio=_ratio(counts[kernels.NUM_NEWLINES], num_words),
        bullet_line_share=per_line(kernels.NUM_BULLET_LINES),
        ellipsis_line_share=per_line(kernels.NUM_ELLIPSIS_LINES),
        terminal_line_share=per_line(kernels.NUM_TERMINAL_LINES),
        short_line_share=per_line(kernels.NUM_SHORT_LINES),
        javascript_line_share=per_line(kernels.NUM_JAVASCRIPT_LINES),
        policy_line_share=per_line(kernels.NUM_POLICY_LINES),
        repeated_line_share=_ratio(repeated_lines, num_lines),
        repeated_paragraph_share=_ratio(repeated_paragraphs, len(segments.paragraphs.hashes)),
        duplicate_paragraph_share=_ratio(repeated_paragraph_chars, counts[kernels.NUM_LINE_CHARS]),
        num_sentences=counts[kernels.NUM_SENTENCES],
        num_braces=counts[kernels.NUM_BRACES],
        num_lorem_ipsum=counts[kernels.NUM_LOREM],
        **{f"top_{length}gram_share": shares[length] for length in TOP_NGRAMS},
        **{f"duplicate_{length}gram_share": shares[length] for length in DUPLICATE_NGRAMS},
        num_emails=kinds["email"],
        num_phone_numbers=kinds["phone"],
        num_ip_addresses=kinds["ip"],
        num_secrets=kinds["secret"],
        language=language,
        language_share=language_share,
    )
    return TextReading(statistics, segments, personal_data)


def identify_language(text: str) -> tuple[str, float]:
    """Return the code of the main language at the start of a text, and its share there; empty where it is unclear."""
    try:
        is_reliable, _, languages = pycld2.detect(text[:LANGUAGE_CHARS].encode("utf-8", "replace"))
    except pycld2.error:  # characters that are no text
        return "", 0.0
    _, code, percent, _ = languages[0]
    return (code, percent / 100) if is_reliable and code != "un" else ("", 0.0)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
