"""How much of a text repeats itself: lines, paragraphs and runs of terms, in the manner of the Gopher rules.

numba compiles again when this file changes; the kernels use nothing of other modules but the decorator.
"""

import numpy as np
from numpy.typing import NDArray

from data_recipes.text_kernels import Segments, compiled

TOP_NGRAMS = (2, 3, 4)
"""Lengths of which the most frequent run is measured."""
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
"""Lengths of which all repeated runs are measured."""

_LAST_TOP, _LAST = TOP_NGRAMS[-1], DUPLICATE_NGRAMS[-1]
_MIX_A, _MIX_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT, _HALF = np.uint64(33), np.uint64(32)


def repeated_runs(hashes: NDArray[np.uint64], chars: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many lines (or paragraphs) occurred before, and their characters."""
    number, num_chars = _repeated(hashes, chars)
    return int(number), int(num_chars)


def ngram_chars(segments: Segments, words_per_term: int) -> tuple[int, NDArray[np.int64]]:
    """Measure runs of terms.

    Args:
        segments: the text.
        words_per_term: 1; 2 takes runs of twice as many terms, for texts in which a term is one character.

    Returns:
        The characters of all terms, and by length of run, 0 to 10: up to 4, the most frequent run that occurs more
        than once: its characters times its occurrences, at most all characters; among the most frequent the one with
        most characters. From 5 on, the characters that lie in a run which occurred before, each counted once.
    """
    lengths = (segments.terms.ends - segments.terms.starts).astype(np.int64)
    return int(lengths.sum()), _ngram_chars(segments.terms.hashes, lengths, words_per_term)


@compiled
def _slot(key: np.uint64, mask: np.int64) -> np.int64:
    key = (key ^ (key >> _SHIFT)) * _MIX_A
    key = (key ^ (key >> _SHIFT)) * _MIX_B
    return np.int64(key >> _SHIFT) & mask


@compiled
def _table_size(num_keys: int) -> int:
    size = 4
    while size < 2 * num_keys:
        size *= 2
    return size


@compiled
def _repeated(hashes: NDArray[np.uint64], chars: NDArray[np.int64]) -> tuple[int, int]:
    size = _table_size(len(hashes))
    first = np.full(size, -1, dtype=np.int32)
    number = num_chars = 0
    for place in range(len(hashes)):
        slot = _slot(hashes[place], np.int64(size - 1))
        while first[slot] >= 0 and hashes[first[slot]] != hashes[place]:
            slot = (slot + 1) & (size - 1)
        if first[slot] < 0:
            first[slot] = place
        else:
            number += 1
            num_chars += chars[place]
    return number, num_chars


@compiled
def _classify(
    places: NDArray[np.int32],
    keys: NDArray[np.uint64],
    table: NDArray[np.int32],
    classes: NDArray[np.int32],
    counts: NDArray[np.int32],
) -> None:
    """Give every place the first place with an equal key as its class, and count the places of each class."""
    mask = np.int64(_table_size(len(places)) - 1)
    table[: mask + 1] = -1
    for place in places:
        slot = _slot(keys[place], mask)
        while table[slot] >= 0 and keys[table[slot]] != keys[place]:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = place
            counts[place] = 0
        classes[place] = table[slot]
        counts[table[slot]] += 1


@compiled
def _top(
    places: NDArray[np.int32],
    counts: NDArray[np.int32],
    classes: NDArray[np.int32],
    ends: NDArray[np.int64],
    length: int,
) -> int:
    most, most_chars = np.int64(1), np.int64(0)
    for place in places:
        if classes[place] == place and counts[place] > 1 and counts[place] >= most:
            chars = ends[place + length] - ends[place]
            most_chars = max(chars, most_chars) if counts[place] == most else chars
            most = np.int64(counts[place])
    return int(min(most * most_chars, ends[-1]))


@compiled
def _duplicate(places: NDArray[np.int32], classes: NDArray[np.int32], ends: NDArray[np.int64], length: int) -> int:
    covered, chars = 0, 0
    for place in places:
        if classes[place] != place:
            chars += ends[place + length] - ends[max(place, covered)]
            covered = place + length
    return chars


@compiled
def _ngram_chars(hashes: NDArray[np.uint64], lengths: NDArray[np.int64], words_per_term: int) -> NDArray[np.int64]:
    """Runs of n terms are told apart by the class of their first n-1 terms and the class of the last.

    Only a run whose first n-1 terms occur twice can occur twice: with growing n few places are left to look at.
    """
    num_terms = len(hashes)
    found = np.zeros(_LAST + 1, dtype=np.int64)
    ends = np.zeros(num_terms + 1, dtype=np.int64)  # characters before a term
    places = np.empty(num_terms, dtype=np.int32)
    for term in range(num_terms):
        ends[term + 1] = ends[term] + lengths[term]
        places[term] = term
    table = np.empty(_table_size(num_terms), dtype=np.int32)
    classes, counts = np.empty(num_terms, dtype=np.int32), np.empty(num_terms, dtype=np.int32)
    _classify(places, hashes, table, classes, counts)
    words = classes.copy()
    keys = np.empty(num_terms, dtype=np.uint64)
    for length in range(2, _LAST * words_per_term + 1):
        num_left = 0
        for place in places:
            if counts[classes[place]] > 1 and place + length <= num_terms:
                keys[place] = (np.uint64(classes[place]) << _HALF) | np.uint64(words[place + length - 1])
                places[num_left] = place
                num_left += 1
        places = places[:num_left]
        if num_left == 0:
            break
        _classify(places, keys, table, classes, counts)
        number = length // words_per_term
        if length % words_per_term == 0 and number >= 2:
            if number <= _LAST_TOP:
                found[number] = _top(places, counts, classes, ends, length)
            else:
                found[number] = _duplicate(places, classes, ends, length)
    return found
