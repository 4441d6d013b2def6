"""Near-duplicates: signatures by one-permutation hashing, candidates by bands, verified by the exact Jaccard index.

A shingle is a run of terms (`data_recipes.text_kernels`). Documents that share a band are candidates; whether one is a
near-duplicate is decided on their sets of shingles. Every document that is dropped was compared with the one that is
kept in its place, and the value of this comparison is recorded: there are no chains of a like b, b like c.

numba compiles again when this file changes; the kernels use nothing of other modules but the decorator.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_recipes.text_kernels import compiled

NUM_BANDS = 20
ROWS_PER_BAND = 6
MAX_COMPARED = 1000
"""Kept documents that one document is compared with at most, those that share most bands with it first."""

Hashes = NDArray[np.uint64]

_NUM_BINS = NUM_BANDS * ROWS_PER_BAND
_CACHE_BYTES = 2**27
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT, _HALF, _LOW = np.uint64(33), np.uint64(32), np.uint64(0xFFFFFFFF)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class NearDuplicate:
    """A document that is dropped.

    Attributes:
        row: its row.
        kept_row: row of the document that stays in its place; always smaller.
        jaccard: exact Jaccard index of the two sets of shingles.
    """

    row: int
    kept_row: int
    jaccard: float


@dataclass(frozen=True)
class NearDuplicates:
    """All near-duplicates, by row, and how many comparisons it took.

    Attributes:
        num_suspects: documents that share a band with another.
        num_compared: pairs compared exactly.
        num_not_compared: pairs left out because of `MAX_COMPARED`.
    """

    found: tuple[NearDuplicate, ...]
    num_suspects: int
    num_compared: int
    num_not_compared: int


def signature(terms: Hashes, shingle_words: int) -> Hashes:
    """Return the `NUM_BANDS` band keys of a document, by which candidates are found: `openwright-signature/1`.

    Args:
        terms: hashes of its terms in order, `Segments.terms.hashes`. Without any, all keys are 0: it is like no other.
        shingle_words: words of a shingle.
    """
    return _signature(terms, shingle_words)


def shingles(terms: Hashes, shingle_words: int) -> Hashes:
    """Return the set of shingles of a document, sorted; a document shorter than a shingle has one."""
    return np.unique(run_hashes(terms, shingle_words))


def jaccard(first: Hashes, second: Hashes) -> float:
    """Return the exact Jaccard index of two sets of shingles; 0 where one is empty."""
    return float(_jaccard(first, second))


def find_suspects(signatures: Hashes) -> NDArray[np.int64]:
    """Return the rows that share a band with another row: only their texts are looked at again.

    Args:
        signatures: `[num_documents, NUM_BANDS]`, uint64; may be memory-mapped. 24 bytes per document are taken beside.
    """
    suspect = np.zeros(len(signatures), dtype=np.bool_)
    for rows in _buckets(signatures):
        suspect[rows] = True
    return np.flatnonzero(suspect)


def find_near_duplicates(
    signatures: Hashes, shingles_of: Callable[[int], Hashes], min_jaccard: float, num_in_place: int = 0
) -> NearDuplicates:
    """Find the documents that are near-duplicates of one that is kept.

    Rows are taken in order: a document is dropped when its Jaccard index with a document kept before it reaches
    `min_jaccard`; among several the most similar is named, then the smallest row. No two documents that are kept and
    were compared are near-duplicates.

    Args:
        signatures: `[num_documents, NUM_BANDS]`, uint64, those to be kept first at the front: documents in place,
            then held-out ones, then by document id. Takes 24 bytes per document, and per suspect about 1,500.
        shingles_of: `shingles` of a document by row; called for suspects only, by and large in order of rows, and more
            than once where 128 MiB do not hold all.
        min_jaccard: see `data_recipes.rule_settings.NearDuplicateRules`.
        num_in_place: so many at the front stay, although they may be found to be like another.
    """
    buckets: list[list[int]] = []
    buckets_of: dict[int, list[int]] = {}
    for rows in _buckets(signatures):
        for row in rows.tolist():
            buckets_of.setdefault(row, []).append(len(buckets))
        buckets.append([])
    sets = _Sets(shingles_of)
    found: list[NearDuplicate] = []
    num_compared = num_not_compared = 0
    for row in sorted(buckets_of):
        shared = Counter(kept for bucket in buckets_of[row] for kept in buckets[bucket])
        candidates = sorted(shared, key=lambda kept: (-shared[kept], kept))
        num_not_compared += len(candidates[MAX_COMPARED:])
        best = NearDuplicate(row, -1, 0.0)
        for kept in candidates[:MAX_COMPARED]:
            num_compared += 1
            value = jaccard(sets.of(row), sets.of(kept))
            if (-value, kept) < (-best.jaccard, best.kept_row):
                best = NearDuplicate(row, kept, value)
        if best.kept_row >= 0 and best.jaccard >= min_jaccard:
            found.append(best)
            if row >= num_in_place:
                continue
        for bucket in buckets_of[row]:
            buckets[bucket].append(row)
    return NearDuplicates(tuple(found), len(buckets_of), num_compared, num_not_compared)


class _Sets:
    """Sets of shingles that were used last, up to a number of bytes."""

    def __init__(self, shingles_of: Callable[[int], Hashes]) -> None:
        self._shingles_of = shingles_of
        self._sets: OrderedDict[int, Hashes] = OrderedDict()
        self._num_bytes = 0

    def of(self, row: int) -> Hashes:
        """Return the set of a row."""
        if row in self._sets:
            self._sets.move_to_end(row)
            return self._sets[row]
        made = self._sets[row] = self._shingles_of(row)
        self._num_bytes += made.nbytes
        while self._num_bytes > _CACHE_BYTES and len(self._sets) > 2:
            _, oldest = self._sets.popitem(last=False)
            self._num_bytes -= oldest.nbytes
        return made


def _buckets(signatures: Hashes) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each band key that two rows or more have, rows in order; keys of 0 stand for no terms."""
    for band in range(NUM_BANDS):
        keys = np.ascontiguousarray(signatures[:, band])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(keys)), dtype=np.bool_), keys[1:] != keys[:-1])))
        ends = np.append(starts[1:], len(keys))
        for place in np.flatnonzero(ends - starts > 1):
            if keys[starts[place]] != 0:
                yield order[starts[place] : ends[place]]


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _SHIFT)) * _MIX_A
    value = (value ^ (value >> _SHIFT)) * _MIX_B
    return value ^ (value >> _SHIFT)


@compiled
def run_hashes(terms: Hashes, shingle_words: int) -> Hashes:
    """Hashes of all runs of `shingle_words` terms: a polynomial over the terms, mixed."""
    length = min(shingle_words, len(terms))
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= _BASE
    made = np.empty(len(terms) - length + 1 if length else 0, dtype=np.uint64)
    rolling = np.uint64(0)
    for place in range(len(terms)):
        rolling = rolling * _BASE + terms[place]
        if place >= length:
            rolling -= leaving * terms[place - length]
        if place >= length - 1:
            made[place - length + 1] = _mix(rolling)
    return made


@compiled
def _signature(terms: Hashes, shingle_words: int) -> Hashes:
    keys = np.zeros(NUM_BANDS, dtype=np.uint64)
    if len(terms) == 0:
        return keys
    bins = np.full(_NUM_BINS, _EMPTY, dtype=np.uint64)
    for value in run_hashes(terms, shingle_words):
        slot = np.int64(((value >> _HALF) * np.uint64(_NUM_BINS)) >> _HALF)
        bins[slot] = min(bins[slot], value & _LOW)
    # An empty bin borrows from a bin that is not, drawn by a hash of its number alone (optimal densification).
    for place in range(_NUM_BINS):
        donor, attempt = np.int64(place), np.uint64(0)
        while bins[donor] > _LOW:
            attempt += np.uint64(1)
            donor = np.int64(_mix((np.uint64(place) << _HALF) + attempt) % np.uint64(_NUM_BINS))
        if donor != place:
            bins[place] = bins[donor] | (np.uint64(1) << _HALF)  # marked, so that nobody borrows it in turn
    for band in range(NUM_BANDS):
        key = _mix(np.uint64(band + 1))
        for row in range(ROWS_PER_BAND):
            key = _mix((key ^ (bins[band * ROWS_PER_BAND + row] & _LOW)) * _BASE)
        keys[band] = max(key, np.uint64(1))
    return keys


@compiled
def _jaccard(first: Hashes, second: Hashes) -> float:
    i = j = shared = 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            shared += 1
        step = first[i] <= second[j]
        j += second[j] <= first[i]
        i += step
    either = len(first) + len(second) - shared
    return shared / either if either else 0.0
