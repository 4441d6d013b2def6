"""Part files: the documents of one part of a source, as Parquet in runs that are sorted by document id.

A run is what fits in memory while a part is read; its row groups cover narrow ranges of ids, so that a later task
reads the documents of one range from all parts without reading the rest.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.documents import DOCUMENTS_SCHEMA

RUN_BYTES = 48 * 2**20
RUN_ROWS = 32_768
GROUP_BYTES = 2**21
ID_BITS = 32
"""Leading bits of a document id by which ranges are cut."""

FUNCTION_TYPE = pa.struct([(name, pa.string()) for name in ("qualified_name", "signature", "summary")])
PART_SCHEMA = pa.schema(
    [
        *DOCUMENTS_SCHEMA,
        ("functions", pa.list_(FUNCTION_TYPE)),
        ("signature", pa.binary()),
        ("text", pa.large_string()),
    ]
)
"""Columns of the documents table, then those that only a build needs; a document that a rule dropped has no text."""


class PartWriter:
    """Writes a part file, row by row."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, PART_SCHEMA, compression="zstd", compression_level=1)
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        """Add a document, a value for each column."""
        self._rows.append(row)
        self._num_bytes += row["size_bytes"]
        if self._num_bytes >= RUN_BYTES or len(self._rows) >= RUN_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._rows.sort(key=lambda row: str(row["document_id"]))
        first = num_bytes = 0
        for place, row in enumerate(self._rows, 1):
            num_bytes += row["size_bytes"]
            if num_bytes >= GROUP_BYTES or place == len(self._rows):
                group = pa.Table.from_pylist(self._rows[first:place], schema=PART_SCHEMA)
                self._writer.write_table(group, row_group_size=max(1, place - first))
                first, num_bytes = place, 0
        self._rows, self._num_bytes = [], 0


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a Parquet file, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=list(columns), use_threads=False)


def id_range(bucket: int, num_buckets: int) -> tuple[str, str]:
    """First document id of a bucket and the one past it; buckets are equal ranges of ids in order."""
    first, end = (-(-(number << ID_BITS) // num_buckets) for number in (bucket, bucket + 1))
    return f"{first:08x}", f"{end:08x}" if end >> ID_BITS == 0 else "g"


def read_range(path: Path, first: str, end: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a file sorted in runs by `document_id`, its first column, whose id is in a range.

    Only the row groups that may hold some are read.
    """
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            found = file.metadata.row_group(number).column(0).statistics
            if found.max < first or found.min >= end:
                continue
            table = file.read_row_group(number, columns=None if columns is None else list(columns), use_threads=False)
            ids = table.column("document_id")
            inside = table.filter(pc.and_(pc.greater_equal(ids, first), pc.less(ids, end)))
            if inside.num_rows:
                yield inside


class TableWriter:
    """Writes a Parquet file whose bytes depend on its rows alone, not on the pieces in which they came.

    Args:
        group_bytes: a row group ends with the row that brings the column `sized_by` to so many bytes.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, *, group_rows: int, sized_by: str = "", group_bytes: int = 2**25
    ) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._schema, self._group_rows, self._sized_by, self._group_bytes = schema, group_rows, sized_by, group_bytes
        self._pending = schema.empty_table()
        self.num_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write(whole_groups_only=False)
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows in order."""
        self.num_rows += table.num_rows
        self._pending = pa.concat_tables([self._pending, table.select(self._schema.names).cast(self._schema)])
        self._write(whole_groups_only=True)

    def _write(self, *, whole_groups_only: bool) -> None:
        start, num_rows = 0, self._pending.num_rows
        ends = np.zeros(num_rows, dtype=np.int64)
        if self._sized_by:
            ends = np.cumsum(pc.binary_length(self._pending.column(self._sized_by)).to_numpy())
        while start < num_rows:
            done = int(ends[start - 1]) if start else 0
            by_bytes = int(np.searchsorted(ends, done + self._group_bytes)) + 1 if self._sized_by else num_rows + 1
            end = min(start + self._group_rows, by_bytes)
            if end > num_rows and whole_groups_only:
                break
            end = min(end, num_rows)
            group = self._pending.slice(start, end - start).combine_chunks()
            self._writer.write_table(group, row_group_size=end - start)
            start = end
        # A copy, so that what was written is given back.
        self._pending = self._pending.slice(start).combine_chunks() if start else self._pending
