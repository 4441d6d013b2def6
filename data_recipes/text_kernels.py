"""The one reading of a text: a compiled pass over its characters that finds words, lines and paragraphs.

All that the statistics need is taken here, and nothing reads the characters again but detectors of personal data, on
the few lines that this pass marks for them. numba does not look at other files when it decides whether to compile
again: the kernel and all it uses stay in one module.
"""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import UserProvidedCacheLocator
from numpy.typing import NDArray

from provenance.digests import sha256_bytes, sha256_file

_Function = TypeVar("_Function", bound=Callable[..., Any])
Codes = NDArray[np.uint32]

# Scripts written without spaces between words: kana, CJK ideographs, Thai, Lao, Myanmar, Khmer. A character of
# theirs counts as a word, so that thresholds made for spaced scripts do not throw such text away.
UNSPACED_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0x20000, 0x3134F),
)  # fmt: skip
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
TERMINAL_MARKS = ".!?…。！？｡।॥؟۔։።៕။\"'”’»」』"
SENTENCE_MARKS = ".!?…。！？｡।॥؟۔։።៕။"
SHORT_LINE_CHARS = 30
"""Lines with fewer characters are short (FineWeb)."""

SPACE, LETTER, SYMBOL, UNSPACED, TERM, WORD, TERMINAL, SENTENCE, PLAIN, ODD, DIGIT = (1 << bit for bit in range(11))
_KNOWN = (*STOP_WORDS, "terms", "use", "uses", "privacy", "policy", "cookie", "cookies", "lorem", "ipsum", "javascript")
_OF, _NUM_STOP_WORDS = STOP_WORDS.index("of") + 1, len(STOP_WORDS)
_TERMS, _USE, _USES, _PRIVACY, _POLICY, _COOKIE, _COOKIES, _LOREM, _IPSUM, _JAVASCRIPT = range(9, 19)
_KNOWN_SLOTS = 256

# What the kernel counts, by place.
(
    NUM_WORDS, NUM_UNSPACED, NUM_SOLID, NUM_LETTERS, NUM_SYMBOLS, NUM_LETTER_WORDS, NUM_STOP_WORDS, NUM_HASHES,
    NUM_ELLIPSES, NUM_NEWLINES, NUM_SENTENCES, NUM_BRACES, NUM_LOREM, NUM_LINES, NUM_LINE_CHARS, NUM_DIRECTIVES,
    NUM_BULLET_LINES, NUM_ELLIPSIS_LINES, NUM_TERMINAL_LINES, NUM_SHORT_LINES, NUM_JAVASCRIPT_LINES, NUM_POLICY_LINES,
    STOP_WORD_BITS,
) = range(23)  # fmt: skip
NUM_COUNTS = 23

KERNEL_CACHE = Path("~/.cache/openwright/kernels")

# What may be in a line, for the detectors of personal data.
HAS_AT, HAS_DIGITS, HAS_ADDRESS, HAS_TOKEN = 1, 2, 4, 8
MIN_PHONE_DIGITS, MIN_TOKEN_CHARS = 7, 16

_NEWLINE, _ELLIPSIS = np.uint32(10), np.uint32(0x2026)
_CJK_MARKS = np.uint32(0x3000)  # marks from here on end sentences without white space after them
_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIX_A, _MIX_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT, _HALF = np.uint64(33), np.uint64(32)


class KernelsBySource(UserProvidedCacheLocator):  # type: ignore[misc]  # numba is untyped
    """Where the kernels of a module are kept: by what its source says, so that copies of it share them.

    A bundle's code is such a copy. What numba compiles depends on the source, on how this module has it compiled, on
    numba and on the processor; the last two are numba's business.
    """

    def __init__(self, function: Callable[..., Any], source_path: str) -> None:
        super().__init__(function, source_path)
        source = Path(source_path)
        digest = sha256_bytes(f"{sha256_file(source)} {sha256_file(Path(__file__))}".encode())
        self._cache_path = str(Path(numba.config.CACHE_DIR) / f"{source.stem}-{digest}")


def _keep_kernels() -> bool:
    """Have numba keep what it compiles in the user's cache, never beside the source: a bundle's code stays as it is.

    Returns:
        Whether there is such a place; without one every process compiles anew, which takes some seconds.
    """
    if not numba.config.CACHE_DIR:  # unless the user has set numba's own variable
        numba.config.CACHE_DIR = str(KERNEL_CACHE.expanduser())
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelsBySource.__name__}"
    place = Path(numba.config.CACHE_DIR)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK)


def compiled(function: _Function) -> _Function:
    """Compile a function with numba when it is first called; the result is kept for later processes."""
    return cast(_Function, numba.njit(cache=_keep_kernels(), nogil=True, error_model="numpy")(function))


class Tables(NamedTuple):
    """What the kernel knows of every code point, and words that it looks for."""

    flags: NDArray[np.uint16]
    lower: Codes
    known_hashes: NDArray[np.uint64]
    known_words: NDArray[np.uint8]


class Terms(NamedTuple):
    """The terms of a text: a term is a word in lower case without what is neither letter, mark nor number at its ends.

    Words that hold none of these give no term. Places are in characters.
    """

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


class Runs(NamedTuple):
    """Lines or paragraphs of a text, with their numbers of characters."""

    hashes: NDArray[np.uint64]
    chars: NDArray[np.int64]


class Segments(NamedTuple):
    """A text taken apart.

    Attributes:
        counts: numbers by the places `NUM_...` of this module.
        terms: all terms.
        lines: lines that are not blank, without white space at their ends.
        paragraphs: runs of such lines.
        marked_lines: start, end and mask (`HAS_...`) of each line in which personal data may be.
    """

    counts: NDArray[np.int64]
    terms: Terms
    lines: Runs
    paragraphs: Runs
    marked_lines: NDArray[np.int32]


def code_points(text: str) -> Codes:
    """Return the code points of a text; lone surrogates stay as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def segment(text: str) -> Segments:
    """Take a text apart in one pass over its characters."""
    # Arrays go in and out one by one: numba takes as long for a named tuple as for reading a page of text.
    counts, hashes, starts, ends, *others = _segment(code_points(text), *tables())
    line_hashes, line_chars, paragraph_hashes, paragraph_chars, marked_lines = others
    return Segments(
        counts,
        Terms(hashes, starts, ends),
        Runs(line_hashes, line_chars),
        Runs(paragraph_hashes, paragraph_chars),
        marked_lines,
    )


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Make the tables of the kernel from this Python's Unicode data, once per process."""
    flags = np.zeros(0x110000, dtype=np.uint16)
    lower = np.arange(0x110000, dtype=np.uint32)
    for code in (*range(0x32400), *range(0xE0000, 0xE0200)):  # all others are unassigned or private
        character = chr(code)
        if unicodedata.category(character) == "Lo":  # two thirds of them, all alike
            flags[code] = LETTER | TERM | PLAIN | WORD
            continue
        flags[code] = _flags_of(character)
        lowered = character.lower()
        if len(lowered) == 1:
            lower[code] = ord(lowered)
    for first, last in UNSPACED_RANGES:
        flags[first : last + 1] = (flags[first : last + 1] | PLAIN | UNSPACED) ^ PLAIN
    known_hashes = np.zeros(_KNOWN_SLOTS, dtype=np.uint64)
    known_words = np.zeros(_KNOWN_SLOTS, dtype=np.uint8)
    for number, word in enumerate(_KNOWN, start=1):
        word_hash = np.uint64(_term_hash(code_points(word)))
        slot = int(word_hash) % _KNOWN_SLOTS
        while known_words[slot]:
            slot = (slot + 1) % _KNOWN_SLOTS
        known_hashes[slot], known_words[slot] = word_hash, number
    return Tables(flags, lower, known_hashes, known_words)


def _flags_of(character: str) -> int:
    category = unicodedata.category(character)[0]
    if character.isspace():
        return SPACE
    is_term = category in "LMN"
    is_odd = category == "S" or character in SENTENCE_MARKS or character in "#{:-@"
    return (
        (LETTER if category in "LM" else 0)
        | (SYMBOL if category == "S" else 0)
        | (TERM | PLAIN if is_term else 0)
        | (WORD if character.isalnum() or character == "_" else 0)
        | (TERMINAL if character in TERMINAL_MARKS else 0)
        | (SENTENCE if character in SENTENCE_MARKS else 0)
        | (ODD if is_odd else 0)
        | (DIGIT if character in "0123456789" else 0)
    )


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _SHIFT)) * _MIX_A
    value = (value ^ (value >> _SHIFT)) * _MIX_B
    return value ^ (value >> _SHIFT)


@compiled
def _term_hash(codes: Codes) -> np.uint64:
    value = _SEED
    for code in codes:
        value = (value ^ np.uint64(code)) * _PRIME
    return _mix(value)


@compiled
def _line_hash(codes: Codes, start: int, end: int) -> np.uint64:
    """Two code points at a time: a chain of half the length."""
    value = _SEED
    for place in range(start, end - 1, 2):
        value = (value ^ np.uint64(codes[place]) ^ (np.uint64(codes[place + 1]) << _HALF)) * _MIX_A
        value ^= value >> _HALF
    if (end - start) & 1:
        value = (value ^ np.uint64(codes[end - 1])) * _MIX_B
    return _mix(value)


@compiled
def _known_word(value: np.uint64, hashes: NDArray[np.uint64], words: NDArray[np.uint8]) -> np.int64:
    slot = np.int64(value % np.uint64(_KNOWN_SLOTS))
    while words[slot] != 0:
        if hashes[slot] == value:
            return np.int64(words[slot])
        slot = (slot + 1) % _KNOWN_SLOTS
    return np.int64(0)


@compiled
def _ends_policy_phrase(word: np.int64, before: np.int64, before_that: np.int64) -> bool:
    """Whether a word ends one of C4's phrases; its words are given, 0 for a word of no phrase."""
    if word == _POLICY:
        return before in (_PRIVACY, _COOKIE)
    if word == _COOKIES:
        return before in (_USE, _USES) or (before == _OF and before_that == _USE)
    return bool(word == _USE and before == _OF and before_that == _TERMS)


@compiled
def _is_directive(codes: Codes, start: int, end: int, flags: NDArray[np.uint16]) -> bool:
    """Whether a line begins as `\\.\\. [\\w:.-]+::` or `:[\\w-]+:(\\s|$)`, in the words of regular expressions."""
    if codes[start] == ord("."):
        if end - start < 6 or codes[start + 1] != ord(".") or codes[start + 2] != ord(" "):
            return False
        place = start + 3
        while place < end:
            code = codes[place]
            if not (flags[code] & WORD or code == ord(":") or code == ord(".") or code == ord("-")):
                return False
            if place > start + 3 and code == ord(":") and place + 1 < end and codes[place + 1] == ord(":"):
                return True
            place += 1
        return False
    if codes[start] != ord(":"):
        return False
    place = start + 1
    while place < end and (flags[codes[place]] & WORD or codes[place] == ord("-")):
        place += 1
    if place == start + 1 or place == end or codes[place] != ord(":"):
        return False
    return place + 1 == end or bool(flags[codes[place + 1]] & SPACE)


@compiled
def _count_line(codes: Codes, start: int, end: int, flags: NDArray[np.uint16], counts: NDArray[np.int64]) -> None:
    """Count what a line is by its ends."""
    first, last = codes[start], codes[end - 1]
    counts[NUM_LINE_CHARS] += end - start
    counts[NUM_DIRECTIVES] += _is_directive(codes, start, end, flags)
    counts[NUM_BULLET_LINES] += (
        first == 0x2022
        or first == 0x2023
        or first == 0x25E6
        or first == 0x25AA
        or first == ord("*")
        or first == ord("-")
    )
    dots = end - start >= 3 and last == ord(".") and codes[end - 2] == ord(".") and codes[end - 3] == ord(".")
    counts[NUM_ELLIPSIS_LINES] += last == _ELLIPSIS or dots
    counts[NUM_TERMINAL_LINES] += (flags[last] & TERMINAL) != 0
    counts[NUM_SHORT_LINES] += end - start < SHORT_LINE_CHARS


@compiled
def _read_line(
    codes: Codes, start: int, end: int, known: Tables, counts: NDArray[np.int64], terms: Terms, num_terms: int
) -> tuple[int, int]:
    """Read the words of a line; returns the number of terms so far, and the line's mask.

    One long function, because it is the inner loop of everything: calls and writes to arrays per character, which
    parts of it would need, halve its speed.
    """
    # Taken out of their tuples once: inside the loop that would count a reference each time.
    flags, lower, known_hashes, known_words = known
    hashes, starts, ends = terms
    place, mask = start, 0
    before = before_that = np.int64(0)
    has_javascript = has_policy = False
    num_symbols = num_sentences = num_ellipses = num_hashes = num_braces = 0
    line_digits = num_words = num_letters = num_letter_words = num_solid = num_unspaced = 0
    while place < end:
        code = codes[place]
        flag = flags[code]
        if flag & SPACE:
            place += 1
            continue
        word_start = place  # a word of a spaced script, or one character of another
        term_start, term_end = -1, -1
        rolling = at_term_end = _SEED
        letters = digits = dots = colons = dashes = 0
        has_odd = False
        while True:
            if flag & PLAIN:
                if term_start < 0:
                    term_start = place
                rolling = (rolling ^ np.uint64(lower[code])) * _PRIME
                at_term_end, term_end = rolling, place + 1
                letters += (flag & LETTER) != 0
                digits += (flag & DIGIT) != 0
            else:
                if flag & TERM:
                    rolling = (rolling ^ np.uint64(lower[code])) * _PRIME
                    at_term_end, term_start, term_end = rolling, place, place + 1
                    letters += (flag & LETTER) != 0
                elif term_start >= 0:
                    rolling = (rolling ^ np.uint64(code)) * _PRIME
                if flag & ODD:
                    has_odd = True
                    num_symbols += (flag & SYMBOL) != 0
                    if flag & SENTENCE:
                        is_last = place + 1 == end or (flags[codes[place + 1]] & SPACE) != 0
                        num_sentences += is_last or code >= _CJK_MARKS
                    if code == ord("."):
                        dots += 1
                        in_series = place + 2 < end and codes[place + 1] == code and codes[place + 2] == code
                        num_ellipses += in_series and (place == 0 or codes[place - 1] != code)
                    num_ellipses += code == _ELLIPSIS
                    num_hashes += code == ord("#")
                    num_braces += code == ord("{")
                    colons += code == ord(":")
                    dashes += code == ord("-")
                    if code == ord("@"):
                        mask |= HAS_AT
            place += 1
            if place == end or flag & UNSPACED:
                break
            code = codes[place]
            flag = flags[code]
            if flag & (SPACE | UNSPACED):
                break
        num_letters += letters
        num_letter_words += letters > 0
        num_solid += place - word_start
        num_words += 1
        num_unspaced += (flags[codes[word_start]] & UNSPACED) != 0
        line_digits += digits
        if has_odd and ((dots >= 3 and digits >= 4) or (colons >= 2 and digits + letters >= 2)):
            mask |= HAS_ADDRESS
        # Five dashes stand before BEGIN PRIVATE KEY; tokens mix letters and digits.
        if (digits and letters and place - word_start >= MIN_TOKEN_CHARS) or (letters and dashes >= 5):
            mask |= HAS_TOKEN
        if term_start < 0:
            continue
        term_hash = _mix(at_term_end)
        hashes[num_terms], starts[num_terms], ends[num_terms] = term_hash, term_start, term_end
        num_terms += 1
        word = _known_word(term_hash, known_hashes, known_words)
        if word:
            if word <= _NUM_STOP_WORDS:
                counts[STOP_WORD_BITS] |= np.int64(1) << word
            has_javascript |= word == _JAVASCRIPT
            has_policy |= _ends_policy_phrase(word, before, before_that)
            counts[NUM_LOREM] += word == _IPSUM and before == _LOREM
        before_that, before = before, word
    counts[NUM_JAVASCRIPT_LINES] += has_javascript
    counts[NUM_POLICY_LINES] += has_policy
    counts[NUM_SYMBOLS] += num_symbols
    counts[NUM_SENTENCES] += num_sentences
    counts[NUM_ELLIPSES] += num_ellipses
    counts[NUM_HASHES] += num_hashes
    counts[NUM_BRACES] += num_braces
    counts[NUM_LETTERS] += num_letters
    counts[NUM_WORDS] += num_words
    counts[NUM_UNSPACED] += num_unspaced
    counts[NUM_SOLID] += num_solid
    counts[NUM_LETTER_WORDS] += num_letter_words
    if line_digits >= MIN_PHONE_DIGITS:
        mask |= HAS_DIGITS
    return num_terms, mask


@compiled
def _count_room(codes: Codes, flags: NDArray[np.uint16]) -> tuple[int, int]:
    """Count words and newlines, so that arrays are neither grown nor as long as the text."""
    num_words = num_newlines = 0
    outside = True
    for code in codes:
        flag = flags[code]
        is_outside = (flag & (SPACE | UNSPACED)) != 0
        num_words += (flag & UNSPACED) != 0 or (outside and not is_outside)
        num_newlines += code == _NEWLINE
        outside = is_outside
    return num_words, num_newlines


@compiled
def _segment(
    codes: Codes,
    flags: NDArray[np.uint16],
    lower: Codes,
    known_hashes: NDArray[np.uint64],
    known_words: NDArray[np.uint8],
) -> tuple[NDArray[Any], ...]:
    """Return the arrays of `Segments`, those of its tuples one after the other."""
    known = Tables(flags, lower, known_hashes, known_words)
    max_words, num_newlines = _count_room(codes, flags)
    counts = np.zeros(NUM_COUNTS, dtype=np.int64)
    terms = Terms(np.empty(max_words, np.uint64), np.empty(max_words, np.int32), np.empty(max_words, np.int32))
    line_hashes, line_chars = np.empty(num_newlines + 1, np.uint64), np.empty(num_newlines + 1, np.int64)
    paragraph_hashes, paragraph_lengths = np.empty(num_newlines + 1, np.uint64), np.empty(num_newlines + 1, np.int64)
    marked = np.empty((num_newlines + 1, 3), np.int32)
    num_terms = num_lines = num_paragraphs = num_marked = 0
    paragraph_hash, paragraph_chars = _SEED, 0
    place = 0
    while place <= len(codes):
        start = place
        while place < len(codes) and codes[place] != _NEWLINE:
            place += 1
        end = place
        place += 1
        while start < end and flags[codes[start]] & SPACE:
            start += 1
        while start < end and flags[codes[end - 1]] & SPACE:
            end -= 1
        if start < end:
            value = _line_hash(codes, start, end)
            line_hashes[num_lines], line_chars[num_lines] = value, end - start
            num_lines += 1
            paragraph_hash = _mix((paragraph_hash ^ value) * _PRIME)
            paragraph_chars += end - start
            _count_line(codes, start, end, flags, counts)
            num_terms, mask = _read_line(codes, start, end, known, counts, terms, num_terms)
            if mask:
                marked[num_marked, 0], marked[num_marked, 1], marked[num_marked, 2] = start, end, mask
                num_marked += 1
        if paragraph_chars and (start == end or place > len(codes)):
            paragraph_hashes[num_paragraphs], paragraph_lengths[num_paragraphs] = paragraph_hash, paragraph_chars
            num_paragraphs += 1
            paragraph_hash, paragraph_chars = _SEED, 0
    for bit in range(1, _NUM_STOP_WORDS + 1):
        counts[NUM_STOP_WORDS] += (counts[STOP_WORD_BITS] >> bit) & 1
    counts[NUM_NEWLINES], counts[NUM_LINES] = num_newlines, num_lines
    return (
        counts,
        terms.hashes[:num_terms],
        terms.starts[:num_terms],
        terms.ends[:num_terms],
        line_hashes[:num_lines],
        line_chars[:num_lines],
        paragraph_hashes[:num_paragraphs],
        paragraph_lengths[:num_paragraphs],
        marked[:num_marked],
    )
