"""Passages that stand in several documents, taken out of all but one; after Lee et al. 2022 (arXiv 2107.06499), 4.1.

Documents are gone through in an order of precedence. A stretch of `min_chars` characters is taken out of one where the
same stretch stands, whole, in what is left of one before it; so every passage that is taken out can still be read in
the document that is named. Stretches are found by hashes of all windows of that length and compared character by
character. Repetition within one document is left alone: there are quality rules for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_recipes.rule_settings import RepeatedTextRules
from data_recipes.text import normalise
from data_recipes.text_kernels import NUM_WORDS, code_points, segment

WINDOWS_PER_PASS = 1 << 25
"""Windows whose hashes are sorted at a time: about 32 bytes of memory each."""

_BASE, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1
_INVERSE = pow(_BASE, -1, 2**64)
_SPREAD = np.uint64(0xFF51AFD7ED558CCD)
_FOLD = np.uint64(33)

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Passage:
    """A stretch of a text that stands in another one, in characters.

    Attributes:
        holder: place of the document in which it stays, in the order of precedence.
    """

    start: int
    end: int
    holder: int


@dataclass(frozen=True)
class Cut:
    """A document of which passages are taken out.

    Attributes:
        passages: in the order of their beginnings; they may overlap.
        num_words_left: words of what is left.
        is_dropped: whether that is too little: it then holds nothing for others.
    """

    passages: tuple[Passage, ...]
    num_words_left: int
    is_dropped: bool


def cut_text(text: str, passages: Sequence[tuple[int, int]]) -> str:
    """Take stretches out of a text; a line break stands in the place of each, and the rest is in normal form."""
    pieces, done = [], 0
    for start, end in sorted(passages):
        if start > done:
            pieces.append(text[done:start])
        done = max(done, end)
    return normalise("\n".join([*pieces, text[done:]]))


def find_repeated_text(
    texts: Sequence[str],
    is_whole: Sequence[bool],
    rules: RepeatedTextRules,
    windows_per_pass: int = WINDOWS_PER_PASS,
) -> dict[int, Cut]:
    """Find what is taken out of which text.

    Args:
        texts: in the order of precedence.
        is_whole: of which of them nothing is taken out.
        windows_per_pass: bounds memory; changes nothing else.

    Returns:
        By the place of a text in `texts`; those that stay as they are, are not in it.
    """
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    groups, places = _shared_windows(texts, offsets, rules.min_chars, windows_per_pass)
    holders = np.full(int(groups.max(initial=-1)) + 1, -1, np.int64)
    bounds = np.searchsorted(places, offsets)
    cuts: dict[int, Cut] = {}
    for number, (first, past) in enumerate(pairwise(bounds.tolist())):
        if first == past:
            continue
        own_groups, own_places = groups[first:past], places[first:past] - offsets[number]
        if not is_whole[number]:
            passages = _passages(texts, offsets, number, own_places, holders[own_groups], rules.min_chars)
            if passages:
                cuts[number] = _cut(texts[number], passages, rules)
        cut = cuts.get(number)
        if cut is None or not cut.is_dropped:
            stays = _is_left(len(texts[number]), cut, own_places, rules.min_chars) & (holders[own_groups] < 0)
            # Backwards, so that of equal windows in one text the first is the one that is named.
            holders[own_groups[stays][::-1]] = own_places[stays][::-1] + offsets[number]
    return cuts


def _cut(text: str, passages: tuple[Passage, ...], rules: RepeatedTextRules) -> Cut:
    left = cut_text(text, [(passage.start, passage.end) for passage in passages])
    num_words = int(segment(left).counts[NUM_WORDS])
    return Cut(passages, num_words, num_words < rules.min_words_left)


def _is_left(num_chars: int, cut: Cut | None, places: Places, length: int) -> npt.NDArray[np.bool_]:
    """Whether windows lie whole in what is left of a text."""
    removed = np.zeros(num_chars + 1, np.int64)
    for passage in cut.passages if cut else ():
        removed[passage.start + 1 : passage.end + 1] = 1
    before = np.cumsum(removed)
    is_left: npt.NDArray[np.bool_] = before[places + length] == before[places]
    return is_left


def _passages(
    texts: Sequence[str], offsets: Places, number: int, places: Places, holders: Places, length: int
) -> tuple[Passage, ...]:
    """Join windows that follow one another, here and where they are held, and compare them with what is held."""
    is_held = holders >= 0
    places, holders = places[is_held], holders[is_held]
    if not len(places):
        return ()
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(holders) != 1)) + 1
    found = []
    for first, past in pairwise([0, *breaks.tolist(), len(places)]):
        start, end, held = int(places[first]), int(places[past - 1]) + length, int(holders[first])
        holder = int(np.searchsorted(offsets, held, side="right")) - 1
        begin = held - int(offsets[holder])
        # Equal hashes of unequal windows: never seen, and not trusted either.
        if texts[number][start:end] == texts[holder][begin : begin + end - start]:
            found.append(Passage(start, end, holder))
    return tuple(found)


def _shared_windows(texts: Sequence[str], offsets: Places, length: int, windows_per_pass: int) -> tuple[Places, Places]:
    """Windows that stand in two texts or more: a number for what they hold, and their places, which rise."""
    num_windows = sum(max(0, len(text) - length + 1) for text in texts)
    num_passes = np.uint64(max(1, -(-num_windows // windows_per_pass)))
    powers = _powers(_BASE, max(map(len, texts), default=0)), _powers(_INVERSE, max(map(len, texts), default=0))
    groups, places, num_groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for number in range(int(num_passes)):
        chosen_hashes, chosen_places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for text, offset in zip(texts, offsets, strict=False):
            hashes = _hashes(text, length, *powers)
            rows = np.flatnonzero(hashes % num_passes == number)
            chosen_hashes.append(hashes[rows])
            chosen_places.append(rows + offset)
        hashes, at = np.concatenate(chosen_hashes), np.concatenate(chosen_places)
        group, place = _of_several(hashes, at, offsets)
        groups.append(group + num_groups)
        places.append(place)
        num_groups += int(group.max(initial=-1)) + 1
    every = np.concatenate(places)
    order = np.argsort(every)
    return np.concatenate(groups)[order], every[order]


def _of_several(hashes: npt.NDArray[np.uint64], places: Places, offsets: Places) -> tuple[Places, Places]:
    """Keep the windows whose hash occurs in several texts: a number for each such hash, and the place."""
    order = np.argsort(hashes)
    hashes = hashes[order]
    is_equal = hashes[1:] == hashes[:-1]
    if not is_equal.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    occurs_again = np.flatnonzero(np.append(is_equal, False) | np.insert(is_equal, 0, False))
    hashes, places = hashes[occurs_again], places[order[occurs_again]]
    order = np.lexsort((places, hashes))
    hashes, places = hashes[order], places[order]
    begins = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + np.uint64(1)))
    ends = np.append(begins[1:], len(hashes)) - 1
    first_texts, last_texts = (np.searchsorted(offsets, places[rows], side="right") for rows in (begins, ends))
    sizes = ends - begins + 1
    shared = np.flatnonzero(first_texts != last_texts)
    is_shared = np.repeat(first_texts != last_texts, sizes)
    return np.repeat(np.arange(len(shared)), sizes[shared]), places[is_shared]


def _hashes(
    text: str, length: int, powers: npt.NDArray[np.uint64], inverses: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A hash of each window of a text: its polynomial modulo 2^64."""
    if len(text) < length:
        return np.empty(0, np.uint64)
    codes = (code_points(text).astype(np.uint64) + np.uint64(1)) * _SPREAD
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes ^ (codes >> _FOLD)) * powers[: len(text)])])
    hashes: npt.NDArray[np.uint64] = (sums[length:] - sums[:-length]) * inverses[: len(text) - length + 1]
    return (hashes ^ (hashes >> _FOLD)) * _SPREAD


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    values = np.full(count, base & _MASK, np.uint64)
    values[:1] = 1
    return np.cumprod(values, dtype=np.uint64)
