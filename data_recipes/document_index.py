"""Reading the fixed-width document index (`documents/index-*.bin`), memory-mapped: by row number and by document id."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from provenance.canonical import read_json
from provenance.errors import DataError

CODES_FORMAT = "openwright-codes/1"
INDEX_DTYPE = np.dtype(
    [
        *(("document_id", "V32"), ("text_sha256", "V32"), ("num_tokens", "<u4")),
        *(("source", "<u2"), ("licence", "<u2"), ("decision", "<u2")),
        *(("split", "u1"), ("reserved_1", "u1"), ("reserved_2", "<u4")),
    ]
)
_ID_DIGITS = 64

Codes = npt.NDArray[Any]


class IndexRow(NamedTuple):
    """What the index says of one document.

    Attributes:
        number: row number over all files of the index, from 0.
        decision: `kept`, or the name of the rule that dropped it.
        num_tokens: tokens in the shards, its end-of-text token included; 0 where it was dropped.
    """

    number: int
    document_id: str
    num_tokens: int
    source: str
    licence: str
    decision: str
    split: str


class DocumentIndex:
    """The index of a corpus; nothing of it is read before a row is asked for.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).

    Attributes:
        num_documents: kept and dropped documents.
        splits: names of splits by code.
        sources: names of sources by code.

    Raises:
        DataError: for an unknown format, and for files that are missing or no whole rows.
    """

    def __init__(self, corpus: Path) -> None:
        self.folder = corpus / "documents"
        codes = read_json(self.folder / "codes.json")
        if codes.get("format") != CODES_FORMAT:
            raise DataError(f"format {codes.get('format')!r}", expected=CODES_FORMAT, where=str(self.folder))
        self.sources: list[str] = codes["sources"]
        self.splits: list[str] = codes["splits"]
        self._licences: list[str] = codes["licences"]
        self._decisions: list[str] = codes["decisions"]
        self.paths = sorted(self.folder.glob("index-*.bin"))
        self._files = [_map_rows(path) for path in self.paths]
        self._first_rows = list(accumulate(map(len, self._files), initial=0))
        self.num_documents = self._first_rows[-1]
        if not self.num_documents:
            raise DataError("no row", expected="one row of 80 bytes per document", where=f"{self.folder}/index-*.bin")

    def row(self, number: int) -> IndexRow:
        """The row of a number; raises as `rows`."""
        return self.rows(np.array([number]))[0]

    def rows(self, numbers: npt.NDArray[Any]) -> list[IndexRow]:
        """The rows of some numbers, in the order of the numbers.

        Raises:
            DataError: for a number or a code that stands for nothing.
        """
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.num_documents:
            raise DataError(f"rows {numbers.min()} to {numbers.max()}", expected=f"below {self.num_documents}")
        found = np.empty(len(numbers), INDEX_DTYPE)
        files = np.searchsorted(self._first_rows, numbers, side="right") - 1
        for file in np.unique(files):
            of_file = files == file
            found[of_file] = self._files[file][numbers[of_file] - self._first_rows[file]]
        named = (
            [document_id.hex() for document_id in found["document_id"].tolist()],
            *(found["num_tokens"].tolist(), _names(self.sources, found["source"])),
            *(_names(self._licences, found["licence"]), _names(self._decisions, found["decision"])),
            _names(self.splits, found["split"]),
        )
        return list(map(IndexRow._make, zip(numbers.tolist(), *named, strict=True)))

    def find(self, prefix: str) -> range:
        """Numbers of the rows whose document id begins with lower-case hexadecimal digits; found by bisection."""
        rows = range(self.num_documents)
        lowest, highest = prefix.ljust(_ID_DIGITS, "0"), prefix.ljust(_ID_DIGITS, "f")
        first = bisect_left(rows, bytes.fromhex(lowest), key=self._id_of)
        return range(first, bisect_right(rows, bytes.fromhex(highest), lo=first, key=self._id_of))

    def place_of(self, number: int) -> tuple[int, int]:
        """File of a row, as a position in `paths`, and the row's number within it."""
        file = bisect_right(self._first_rows, number) - 1
        return file, number - self._first_rows[file]

    def codes_in_blocks(self, block_rows: int) -> Iterator[tuple[int, Codes, Codes]]:
        """Split and source codes of all documents: first row number of a block, then the codes of its rows."""
        for first, file in zip(self._first_rows, self._files, strict=False):
            for begin in range(0, len(file), block_rows):
                block = file[begin : begin + block_rows]
                yield first + begin, block["split"].copy(), block["source"].copy()

    def _id_of(self, number: int) -> bytes:
        file, place = self.place_of(number)
        document_id: bytes = self._files[file]["document_id"][place].tobytes()
        return document_id


def _map_rows(path: Path) -> npt.NDArray[Any]:
    size_bytes = path.stat().st_size
    if size_bytes % INDEX_DTYPE.itemsize:
        raise DataError(f"{size_bytes} bytes", expected=f"whole rows of {INDEX_DTYPE.itemsize}", where=str(path))
    if not size_bytes:
        return np.empty(0, INDEX_DTYPE)
    return np.memmap(path, INDEX_DTYPE, "r").view(np.ndarray)


def _names(names: Sequence[str], codes: Codes) -> list[str]:
    if len(codes) and int(codes.max()) >= len(names):
        raise DataError(f"code {codes.max()}", expected=f"a code below {len(names)}", where="documents/codes.json")
    return [names[code] for code in codes.tolist()]
