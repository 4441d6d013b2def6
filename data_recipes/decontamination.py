"""Decontamination: training documents in which items of evaluation sets stand, by runs of terms.

A run of `ngram_words` terms that an item and a document share is a hit (13 as in Brown et al. 2020, arXiv 2005.14165,
appendix C); pieces of an item that are shorter are looked for whole. Terms leave out case and punctuation
(`data_recipes.text_kernels`), so this finds normalised copies too. Runs are compared by 64-bit hashes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_recipes.evaluation_sets import EvaluationItem
from data_recipes.near_duplicates import run_hashes
from data_recipes.rule_settings import DecontaminationRules
from data_recipes.text import normalise
from data_recipes.text_kernels import Terms, compiled, segment
from provenance.canonical import Json
from provenance.digests import sha256_bytes, tagged_digest

DECONTAMINATION_FORMAT = "openwright-decontamination/2"
_MIX_A = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)


@dataclass(frozen=True)
class Hit:
    """Text that a document shares with an item: the longest stretch of runs next to one another.

    Attributes:
        start, end: place in the document, in characters.
        num_runs: runs in it.
    """

    set_name: str
    item_id: str
    start: int
    end: int
    num_runs: int


@dataclass(frozen=True)
class Contamination:
    """What a document shares with evaluation sets.

    Attributes:
        overlap: the largest share of one item's runs that stands in it; 0 for none.
        hits: by set, item and place.
    """

    overlap: float = 0.0
    hits: tuple[Hit, ...] = ()


class EvaluationIndex(NamedTuple):
    """The runs of all items, to look texts up in; only arrays and names, so that other processes can be given it.

    Attributes:
        lengths: lengths of runs, ascending.
        tables: of each length, hashes of runs in an open-addressing table; 0 for an empty slot.
        items_of: of each length, items by hash.
        names: set and name of each item.
        num_runs: different runs of each item.
        lock: what a manifest records of the sets, see `docs/formats.md`.
    """

    lengths: tuple[int, ...]
    tables: tuple[NDArray[np.uint64], ...]
    items_of: tuple[dict[int, tuple[int, ...]], ...]
    names: tuple[tuple[str, str], ...]
    num_runs: tuple[int, ...]
    lock: Json

    def find(self, terms: Terms) -> Contamination:
        """Find what the terms of a document share with the items."""
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        runs: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for number, length in enumerate(self.lengths):
            if len(terms.hashes) < length:
                continue
            hashes = run_hashes(terms.hashes, length)
            for place in _members(hashes, self.tables[number]).tolist():
                value = int(hashes[place])
                for item in self.items_of[number].get(value, ()):
                    places[item, length].append(place)
                    runs[item].add((length, value))
        hits = [
            Hit(*self.names[item], int(terms.starts[first]), int(terms.ends[last + length - 1]), last - first + 1)
            for (item, length), found in places.items()
            for first, last in _stretches(found)
        ]
        overlap = max((len(found) / self.num_runs[item] for item, found in runs.items()), default=0.0)
        return Contamination(
            overlap, tuple(sorted(hits, key=lambda hit: (hit.set_name, hit.item_id, hit.start, hit.end)))
        )


def build_index(items: Sequence[EvaluationItem], rules: DecontaminationRules) -> EvaluationIndex:
    """Build the index of evaluation items.

    Args:
        items: of all sets; held-out documents among them where the recipe says so.
        rules: lengths of runs, and the pinned files, which enter the lock.
    """
    by_length: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    num_runs: list[int] = []
    num_short: dict[str, int] = defaultdict(int)
    for number, item in enumerate(items):
        runs: set[tuple[int, int]] = set()
        for text in item.texts:
            hashes = segment(normalise(text)).terms.hashes  # documents are in normal form
            if len(hashes) < rules.min_item_words:
                num_short[item.set_name] += 1
                continue
            length = min(rules.ngram_words, len(hashes))
            runs |= {(length, value) for value in run_hashes(hashes, length).tolist()}
        for length, value in runs:
            by_length[length][value].append(number)
        num_runs.append(len(runs))
    lengths = tuple(sorted(by_length))
    return EvaluationIndex(
        lengths=lengths,
        tables=tuple(_table(sorted(by_length[length])) for length in lengths),
        items_of=tuple({value: tuple(found) for value, found in by_length[length].items()} for length in lengths),
        names=tuple((item.set_name, item.item_id) for item in items),
        num_runs=tuple(num_runs),
        lock=_lock(items, rules, num_short),
    )


def _lock(items: Sequence[EvaluationItem], rules: DecontaminationRules, num_short: dict[str, int]) -> Json:
    by_set: dict[str, list[Json]] = defaultdict(list)
    for item in items:
        by_set[item.set_name].append(
            [item.item_id, [sha256_bytes(text.encode("utf-8", "surrogatepass")) for text in item.texts]]
        )
    files = {source.name: source.sha256 for source in rules.sets}
    return {
        "format": DECONTAMINATION_FORMAT,
        "ngram_words": rules.ngram_words,
        "min_item_words": rules.min_item_words,
        "sets": [
            {
                "name": name,
                "file_sha256": files.get(name, ""),
                "items_digest": tagged_digest("evaluation-items/1", rows),
                "num_items": len(rows),
                "num_texts_too_short": num_short[name],
            }
            for name, rows in sorted(by_set.items())
        ],
    }


def _stretches(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each series of numbers that follow one another."""
    stretches: list[tuple[int, int]] = []
    for place in places:
        if stretches and place == stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], place)
        else:
            stretches.append((place, place))
    return stretches


def _table(values: Sequence[int]) -> NDArray[np.uint64]:
    size = 4
    while size < 2 * len(values):
        size *= 2
    table = np.zeros(size, dtype=np.uint64)
    _fill(table, np.array([value for value in values if value], dtype=np.uint64))
    return table


@compiled
def _fill(table: NDArray[np.uint64], values: NDArray[np.uint64]) -> None:
    mask = np.int64(len(table) - 1)
    for value in values:
        slot = np.int64((value * _MIX_A) >> _SHIFT) & mask
        while table[slot] != 0:
            slot = (slot + 1) & mask
        table[slot] = value


@compiled
def _members(values: NDArray[np.uint64], table: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the values that are in the table."""
    mask = np.int64(len(table) - 1)
    found = np.empty(len(values), dtype=np.int64)
    number = 0
    for place in range(len(values)):
        slot = np.int64((values[place] * _MIX_A) >> _SHIFT) & mask
        while table[slot] != 0:
            if table[slot] == values[place]:
                found[number] = place
                number += 1
                break
            slot = (slot + 1) & mask
    return found[:number]
