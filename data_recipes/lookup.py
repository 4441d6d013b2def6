"""From a training step to the documents that it read, and from a document to the steps that read it.

Both follow from the order, a formula or a file, and from memory-mapped arrays: document ends, the document index and
the row numbers of the split. No text and no Parquet file is read, and no list of all documents is made.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.document_index import DocumentIndex, IndexRow
from data_recipes.order import Draw, Order
from data_recipes.order_file import FileOrder
from data_recipes.order_numpy import window_ids_numpy
from data_recipes.pools import WindowPools
from data_recipes.split_rows import RowNumbers, SplitRows
from provenance.errors import DataError

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class WindowRead:
    """One window of a step.

    Attributes:
        draw: its pool, epoch and window.
        source: name of the source.
        documents: the documents that it touches, in order; empty where windows are rows of conversations.
    """

    draw: Draw
    source: str
    documents: list[IndexRow]


class Lookup:
    """Steps and documents of one run.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        order: the order of the run.
        split: the split that it reads.
        window_tokens: the run's usual window length.
        cache: directory for what is derived from a large corpus once; None derives it each time.

    Attributes:
        windows: the windows of the split, to read their tokens.

    Raises:
        DataError: when the order was made over other shards, and as `WindowPools` and `DocumentIndex`.
    """

    def __init__(self, corpus: Path, order: Order, split: str, window_tokens: int, cache: Path | None = None) -> None:
        self.order, self.split = order, split
        lengths = dict.fromkeys(source.window_tokens or window_tokens for source in order.sources)
        self.windows = WindowPools(corpus, split, list(lengths))
        self.windows.check_order(order)
        self._corpus, self._cache = corpus, cache

    @cached_property
    def index(self) -> DocumentIndex:
        """The document index, which fine-tuning on rows has no need of."""
        return DocumentIndex(self._corpus)

    @cached_property
    def rows(self) -> SplitRows:
        """The row numbers of the split."""
        return SplitRows(self.index, self.split, self._cache)

    def step(self, step: int) -> list[WindowRead]:
        """The windows of a step in slot order, with their documents.

        Raises:
            DataError: for a step that is not in the order, and shards that hold other documents than the index.
        """
        pools, windows = self._windows(step)
        draws = self._draws(step, pools, windows)
        names = [self.order.sources[draw.source].name for draw in draws]
        if self.windows.layout != "stream":
            return [WindowRead(draw, name, []) for draw, name in zip(draws, names, strict=True)]
        numbers = self._row_numbers(pools, windows)
        rows = iter(self.index.rows(np.concatenate(numbers)))
        return [
            WindowRead(draw, name, list(islice(rows, len(of_window))))
            for draw, name, of_window in zip(draws, names, numbers, strict=True)
        ]

    def _windows(self, step: int) -> tuple[Numbers, Numbers]:
        """Pool and window of every draw of a step: as `order.step_draws`, with numpy, for steps of thousands."""
        offsets = np.array(self.order.window_offsets, np.int64)
        ids = window_ids_numpy(self.order, step, step)[0].astype(np.int64)
        # Of pools that share an offset, all but the last are without a window.
        pools = np.searchsorted(offsets, ids, side="right") - 1
        return pools, ids - offsets[pools]

    def _draws(self, step: int, pools: Numbers, windows: Numbers) -> list[Draw]:
        if isinstance(self.order, FileOrder):
            return self.order.step_draws(step)
        phase, slot = self.order.locate_step(step)
        drawn = self.order.first_draws(phase, slot)
        draws = []
        for pool, window in zip(pools.tolist(), windows.tolist(), strict=True):
            draws.append(Draw(pool, drawn[pool] // self.order.sources[pool].num_windows, window))
            drawn[pool] += 1
        return draws

    def _row_numbers(self, pools: Numbers, windows: Numbers) -> list[RowNumbers]:
        """Row numbers of the documents of every window."""
        found: list[RowNumbers] = [np.empty(0, np.uint32)] * len(pools)
        for pool in np.unique(pools).tolist():
            slots = np.flatnonzero(pools == pool)
            firsts, lasts = self.windows.documents_of_all(pool, windows[slots])
            name = self.order.sources[pool].name
            of_source = self.rows.of_source(name)
            if int(lasts.max()) >= len(of_source):
                raise DataError(f"document {lasts.max()} of {name!r}", expected=f"{len(of_source)}, as the index says")
            for slot, first, last in zip(slots.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
                found[slot] = of_source[first : last + 1]
        return found

    def find(self, prefix: str) -> IndexRow:
        """The document whose id begins so.

        Raises:
            DataError: when there is none, or more than one.
        """
        numbers = self.index.find(prefix)
        if len(numbers) != 1:
            raise DataError(
                f"{len(numbers)} documents begin with {prefix!r}",
                expected="the beginning of one document id",
                where=str(self.index.folder),
            )
        return self.index.row(numbers[0])

    def is_in_split(self, document: IndexRow) -> bool:
        """Whether the shards of the split hold a document."""
        return document.decision == "kept" and document.split == self.split

    def place(self, document: IndexRow) -> tuple[int, int, int]:
        """Where the shards hold a document: shard of its source, first token there, and the one past the last."""
        pool = next(number for number, pool in enumerate(self.order.sources) if pool.name == document.source)
        return self.windows.tokens_of(pool, self.rows.ordinal(document.source, document.number))

    def steps_that_read(self, document: IndexRow, tokens: tuple[int, int] | None = None) -> list[int]:
        """Every step that read a token of a document; none where the split does not hold it.

        Args:
            tokens: first token within the document and the one past the last, for a part of it.
        """
        if not self.is_in_split(document):
            return []
        ordinal = self.rows.ordinal(document.source, document.number)
        steps: set[int] = set()
        for number, pool in enumerate(self.order.sources):
            if pool.name == document.source:
                for window in self.windows.windows_of(number, ordinal, tokens):
                    steps.update(self.order.steps_that_read(number, window))
        return sorted(steps)
