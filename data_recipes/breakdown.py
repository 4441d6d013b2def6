"""What a corpus is made of, from the rows of `documents/` alone: by source, licence, language, split and rule."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.documents import KEPT
from provenance.errors import DataError

UNKNOWN_LANGUAGE = "unclear"
KEPT_COLUMNS = {"source": "source", "licence": "licence_chosen", "language": "stat_language", "split": "split"}
"""Column that each breakdown of the kept documents is by."""

_SIZES = ("num_tokens", "size_bytes")
_BATCH_ROWS = 1 << 16


class Count(NamedTuple):
    """Documents with their tokens and UTF-8 bytes."""

    num_documents: int = 0
    num_tokens: int = 0
    size_bytes: int = 0

    def plus(self, other: "Count") -> "Count":
        """The sum of two."""
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Breakdown:
    """A corpus in numbers.

    Attributes:
        total: kept documents.
        kept: by name of the breakdown, then by value, the largest in tokens first.
        dropped: documents by the rule that dropped them, most first.
        lengths: kept documents by the binary logarithm of their tokens, rounded down.
    """

    total: Count
    kept: Mapping[str, Mapping[str, Count]]
    dropped: Mapping[str, Count]
    lengths: Mapping[int, int]


def read_breakdown(documents: Path) -> Breakdown:
    """Count the rows of a corpus; memory does not grow with their number.

    Args:
        documents: directory `documents/` of a corpus.

    Raises:
        DataError: when it holds no table.
    """
    kept: dict[str, dict[str, Count]] = {name: {} for name in KEPT_COLUMNS}
    dropped: dict[str, Count] = {}
    lengths: Counter[int] = Counter()
    total = Count()
    for table in _tables(documents):
        is_kept = pc.equal(table["decision"], KEPT)
        _add(dropped, table.filter(pc.invert(is_kept)), "rule")
        table = table.filter(is_kept)
        for name, column in KEPT_COLUMNS.items():
            if column in table.column_names:
                _add(kept[name], table, column)
        tokens = table["num_tokens"].to_numpy()
        total = total.plus(Count(len(tokens), int(tokens.sum()), int(table["size_bytes"].to_numpy().sum())))
        logarithms, counts = np.unique(np.log2(np.maximum(tokens, 1)).astype(np.int64), return_counts=True)
        lengths.update(dict(zip(logarithms.tolist(), counts.tolist(), strict=True)))
    if "" in kept["language"]:
        kept["language"][UNKNOWN_LANGUAGE] = kept["language"].pop("")
    largest = {
        name: dict(sorted(values.items(), key=lambda item: (-item[1].num_tokens, item[0])))
        for name, values in kept.items()
        if values
    }
    most = dict(sorted(dropped.items(), key=lambda item: (-item[1].num_documents, item[0])))
    return Breakdown(total, largest, most, dict(sorted(lengths.items())))


def _tables(documents: Path) -> Iterator[pa.Table]:
    wanted = {"decision", "rule", *KEPT_COLUMNS.values(), *_SIZES}
    paths = sorted(documents.glob("documents-*.parquet"))
    if not paths:
        raise DataError("no table of documents", expected="documents-00000.parquet", where=str(documents))
    for path in paths:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])


def _add(counts: dict[str, Count], table: pa.Table, column: str) -> None:
    aggregates = [("num_tokens", "count"), *((name, "sum") for name in _SIZES)]
    for row in table.group_by(column).aggregate(aggregates).to_pylist():
        found = Count(row["num_tokens_count"], *(row[f"{name}_sum"] or 0 for name in _SIZES))
        counts[row[column]] = counts.get(row[column], Count()).plus(found)
