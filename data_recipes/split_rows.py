"""Which documents a split holds, source by source: the row numbers behind the ordinals that token shards count in.

Token shards hold the documents of one source in document id order, without naming them. Their row numbers follow from
the document index alone, and one reading of it. For a large corpus they are kept in a file of four bytes per document,
so that the next look-up reads only what it asks for.
"""

import os
import tempfile
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_recipes.document_index import DocumentIndex
from provenance.digests import sha256_file
from provenance.errors import DataError

KEPT_FROM_DOCUMENTS = 1_000_000
"""Smaller corpora are read again each time: that takes some milliseconds."""

_BLOCK_ROWS = 1 << 20

RowNumbers = npt.NDArray[np.uint32]


class SplitRows:
    """Row numbers of the documents of a split, by source, in the order in which its tokens hold them.

    Args:
        index: the document index.
        split: such as `train`.
        cache: directory for the files of large corpora; None computes them in memory.
        kept_from: number of documents from which on a file is made.

    Raises:
        DataError: for an unknown split, and a file in the cache that is not of this index.
    """

    def __init__(
        self, index: DocumentIndex, split: str, cache: Path | None, *, kept_from: int = KEPT_FROM_DOCUMENTS
    ) -> None:
        if split not in index.splits:
            raise DataError(f"no split {split!r}", expected=f"one of {index.splits}", where=str(index.folder))
        if index.num_documents > 2**32:
            raise DataError(f"{index.num_documents:,} documents", expected="at most 2^32", where=str(index.folder))
        self._index, self._split = index, index.splits.index(split)
        manifest = index.folder.parent / "manifest.json"
        self._path = None
        if cache is not None and index.num_documents >= kept_from and manifest.is_file():
            self._path = cache / f"rows-1-{sha256_file(manifest)}-{split}.bin"
        self._rows, counts = self._load() if self._path else self._compute(None)
        firsts = list(accumulate(counts, initial=0))
        self._bounds = {name: (firsts[code], firsts[code + 1]) for code, name in enumerate(index.sources)}

    def of_source(self, source: str) -> RowNumbers:
        """Row numbers of the documents of a source, ascending; empty for a source without any."""
        begin, end = self._bounds.get(source, (0, 0))
        return self._rows[begin:end]

    def ordinal(self, source: str, row: int) -> int:
        """Ordinal of a document of the split within its source.

        Raises:
            DataError: when the split does not hold it.
        """
        rows = self.of_source(source)
        found = int(np.searchsorted(rows, np.uint32(row)))
        if found == len(rows) or rows[found] != row:
            raise DataError(f"row {row} of source {source!r}", expected="a document of the split")
        return found

    def _counts(self) -> list[int]:
        counts = np.zeros(len(self._index.sources), np.int64)
        for _, splits, sources in self._index.codes_in_blocks(_BLOCK_ROWS):
            counts += np.bincount(sources[splits == self._split], minlength=len(counts))[: len(counts)]
        return [int(count) for count in counts]

    def _compute(self, target: Path | None) -> tuple[RowNumbers, list[int]]:
        """Read the codes of all documents twice: to count, and to put every row number at its place."""
        counts = self._counts()
        total = sum(counts)
        rows: RowNumbers = np.empty(total, "<u4")
        if target is not None:
            target.write_bytes(np.array(counts, "<u8").tobytes())
        if target is not None and total:
            rows = np.memmap(target, "<u4", "r+", offset=8 * len(counts), shape=(total,)).view(np.ndarray)
        nexts = list(accumulate(counts, initial=0))
        for first, splits, sources in self._index.codes_in_blocks(_BLOCK_ROWS):
            places = np.flatnonzero(splits == self._split)
            of_block = sources[places]
            places = places[np.argsort(of_block, kind="stable")]
            begin = 0
            for code in np.unique(of_block):
                end = begin + int(np.count_nonzero(of_block == code))
                rows[nexts[code] : nexts[code] + end - begin] = first + places[begin:end]
                nexts[code] += end - begin
                begin = end
        return rows, counts

    def _load(self) -> tuple[RowNumbers, list[int]]:
        """Map the file of the cache, made where it is missing: a u64 count per source, then the row numbers."""
        assert self._path is not None
        num_sources = len(self._index.sources)
        if not self._path.is_file():
            self._make(self._path)
        size = self._path.stat().st_size
        counts = [int(count) for count in np.fromfile(self._path, "<u8", num_sources)]
        if size != 4 * sum(counts) + 8 * num_sources:
            raise DataError(
                f"{size} bytes with counts of {sum(counts)} documents",
                expected=f"4 bytes for each, and 8 for each of {num_sources} sources",
                where=str(self._path),
                next_command=f"rm {self._path}; it is made again",
            )
        rows = np.memmap(self._path, "<u4", "r", offset=8 * num_sources, shape=(sum(counts),)).view(np.ndarray)
        return rows, counts

    def _make(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        os.close(descriptor)
        unfinished = Path(name)
        try:
            self._compute(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
