"""The windows of a split at every length that a run reads: what the draws of its order stand for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.order import Draw, Order, OrderSource
from data_recipes.windows import Mask, TokenIds, TokenWindows
from provenance.errors import DataError


class WindowPools:
    """The windows of one split, cut at one length or several.

    A pool is a source at one length. Pools stand in the order of the lengths, and within a length in file order; an
    order over one length (`order/1`, `order/3`) and one over several number them alike.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        split: a split of `tokens/tokens.json`, such as `train`.
        lengths: window lengths in tokens, each once.

    Attributes:
        pools: every pool with its number of windows.
        tokens_digest: digest `tokens/1` of the split.

    Raises:
        DataError: as `TokenWindows`.
    """

    def __init__(self, corpus: Path, split: str, lengths: Sequence[int]) -> None:
        self._by_length = [TokenWindows(corpus, split, length) for length in lengths]
        first = self._by_length[0]
        self.split = split
        self.tokens_digest, self.layout = first.tokens_digest, first.layout
        self.vocab_size, self.eos_id, self.pad_id = first.vocab_size, first.eos_id, first.pad_id
        self.source_names = [source.name for source in first.sources]
        self.pools = tuple(
            OrderSource(source.name, source.num_windows, windows.window_tokens)
            for windows in self._by_length
            for source in windows.sources
        )

    def check_order(self, order: Order) -> None:
        """Refuse an order that is not one over these pools.

        Raises:
            DataError: when shards, sources, window counts or lengths are others.
        """
        pools = list(self.pools)
        if order.window_tokens is None:
            pools = [replace(pool, window_tokens=None) for pool in pools]
        if order.tokens_digest != self.tokens_digest or [replace(s, draws_before=0) for s in order.sources] != pools:
            lengths = " and ".join(str(windows.window_tokens) for windows in self._by_length)
            raise DataError(
                "the order was made for other shards or another window length",
                expected=f"tokens {self.tokens_digest[:12]} with windows of {lengths}",
                where=f"split {self.split!r}",
            )

    def read(self, draw: Draw) -> tuple[TokenIds, Mask]:
        """Token ids and mask of one draw, both of its window length + 1."""
        windows, source = self._locate(draw.source)
        return windows.read(source, draw.window)

    def read_draws(self, order: Order, draws: Sequence[Draw]) -> tuple[TokenIds, Mask]:
        """Token ids and masks [N, L+1] of N draws of one step of an order; raises as `check_order`.

        Raises:
            DataError: also when draws are of several lengths.
        """
        self.check_order(order)
        lengths = {self._locate(draw.source)[0].window_tokens for draw in draws}
        if len(lengths) != 1:
            raise DataError(f"draws of windows of {sorted(lengths)} tokens", expected="draws of one length")
        shape = len(draws), lengths.pop() + 1
        ids, mask = np.empty(shape, np.int64), np.empty(shape, np.uint8)
        for draw, ids_row, mask_row in zip(draws, ids, mask, strict=True):
            windows, source = self._locate(draw.source)
            windows.read_into(source, draw.window, ids_row, mask_row)
        return ids, mask

    def documents_of(self, pool: int, window: int) -> tuple[int, int]:
        """First and last document that a window touches, as ordinals within the source (rows: the row itself)."""
        windows, source = self._locate(pool)
        return windows.documents_of(source, window)

    def documents_of_all(self, pool: int, windows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """First and last documents of many windows of a pool; as `TokenWindows.documents_of_all`."""
        found, source = self._locate(pool)
        return found.documents_of_all(source, windows)

    def windows_of(self, pool: int, document: int, tokens: tuple[int, int] | None = None) -> range:
        """The windows of a pool that touch a document of its source, or a part of it; as `TokenWindows.windows_of`."""
        windows, source = self._locate(pool)
        return windows.windows_of(source, document, tokens)

    def tokens_of(self, pool: int, document: int) -> tuple[int, int, int]:
        """Shard, first token and the one past the last of a document; raises as `TokenWindows.tokens_of`."""
        windows, source = self._locate(pool)
        return windows.tokens_of(source, document)

    def _locate(self, pool: int) -> tuple[TokenWindows, int]:
        length, source = divmod(pool, len(self.source_names))
        return self._by_length[length], source
