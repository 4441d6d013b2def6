"""Parts of data files: row groups of Parquet, ranges of lines of plain files, whole compressed files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from data_recipes.document import ExtractedDocument, LicenceFinding
from data_recipes.line_reader import COMPRESSED_SUFFIXES, LineRange, open_stream, scan_lines
from data_recipes.reading import PartReport, SourcePart
from data_recipes.row_documents import RowDocuments
from data_recipes.row_files import Row, json_rows, parquet_rows, text_rows
from data_recipes.row_schema import SchemaSeen, merged_schema
from data_recipes.row_settings import RowSource
from provenance.canonical import Json
from provenance.digests import sha256_file
from provenance.errors import DataError, OpenwrightError

PART_BYTES = 256 * 2**20
"""About how much of a plain or Parquet file one part is."""


def scanned(source: RowSource, name: str, path: Path) -> tuple[str, list[SourcePart]]:
    """Read a file once and return its sha256 and its parts.

    Args:
        name: its path in the source.
        path: where it lies.

    Raises:
        DataError: for a Parquet file without a readable footer.
    """
    if source.format == "parquet":
        sha256, ranges = sha256_file(path), _row_groups(source, path)
    elif path.suffix.lower() in COMPRESSED_SUFFIXES or (source.text_unit == "file" and source.format == "text"):
        sha256, ranges = sha256_file(path), [([], path.stat().st_size)]
    else:
        sha256, lines = scan_lines(path, PART_BYTES)
        ranges = [([at.first_byte, at.end_byte, at.first_line], at.end_byte - at.first_byte) for at in lines]
    is_whole = len(ranges) == 1
    parts = [
        SourcePart(name if is_whole else f"{name}@{at[-1]}", size, {"path": name, "sha256": sha256, "range": at})
        for at, size in ranges
    ]
    return sha256, parts


def whole_file(source: RowSource, name: str, path: Path, sha256: str) -> Json:
    """Return the pin of a part that is a whole file.

    Raises:
        DataError: for a Parquet file without a readable footer.
    """
    if source.format != "parquet":
        return {"path": name, "sha256": sha256, "range": []}
    with _readable(source, path):
        return {"path": name, "sha256": sha256, "range": [0, pq.read_metadata(path).num_row_groups, 0]}


def _row_groups(source: RowSource, path: Path) -> list[tuple[list[int], int]]:
    """Ranges of row groups: first group, group after the last, number of the first row."""
    ranges = []
    with _readable(source, path):
        footer = pq.read_metadata(path)
        first_group = first_row = num_rows = size_bytes = 0
        for group in range(footer.num_row_groups):
            size_bytes += footer.row_group(group).total_byte_size
            num_rows += footer.row_group(group).num_rows
            if size_bytes >= PART_BYTES or group == footer.num_row_groups - 1:
                ranges.append(([first_group, group + 1, first_row], size_bytes))
                first_group, first_row, size_bytes = group + 1, num_rows, 0
    return ranges or [([0, 0, 0], 0)]


def read_part(
    source: RowSource, part: SourcePart, path: Path, max_bytes: int, of_all: LicenceFinding | None, report: PartReport
) -> Iterator[ExtractedDocument]:
    """Yield the documents of one part of a file.

    Args:
        path: where the file lies.
        max_bytes: longest text.
        of_all: licence of rows that state none of their own.

    Raises:
        DataError: for a file that cannot be read, a missing column, or a column without text.
    """
    pin = part.pin
    seen = SchemaSeen()
    documents = RowDocuments(source, pin["path"], pin["sha256"], max_bytes, of_all)
    with _readable(source, path):
        yield from documents.of(_rows(source, path, pin["range"], max_bytes, seen), report)
        _check_column(source, report, seen)
        report.facts = documents.facts(report, seen, path.stat().st_size)


def _rows(source: RowSource, path: Path, at: list[int], max_bytes: int, seen: SchemaSeen) -> Iterator[Row]:
    if source.format == "parquet":
        first_group, end_group, first_row = at
        yield from parquet_rows(path, source, range(first_group, end_group), first_row, seen)
        return
    lines = LineRange(*at) if at else None
    stream = open_stream(path, lines)
    first_line = lines.first_line if lines else 0
    rows = json_rows if source.format == "jsonl" else text_rows
    yield from rows(stream, source, max_bytes, first_line, seen)


def _check_column(source: RowSource, report: PartReport, seen: SchemaSeen) -> None:
    """Refuse a part of which no row has the column of texts, or none a text in it: the recipe names the wrong one."""
    column = source.text_column
    if not seen.columns or (column.split(".")[0] in seen.columns and column not in seen.columns):
        return
    if column not in seen.columns:
        raise DataError(
            f"there is no column {column!r} in any of {report.num_files} rows",
            expected=f"one of {', '.join(sorted(seen.columns))}",
        )
    kinds = seen.columns[column]
    if source.format == "jsonl" and not kinds & {"string", "null"}:
        raise DataError(f"column {column!r} holds {' and '.join(sorted(kinds))}", expected="text")


@contextmanager
def _readable(source: RowSource, path: Path) -> Iterator[None]:
    """Say which file of which source could not be read."""
    try:
        yield
    except OpenwrightError as error:
        message = f"source {source.name!r}: {error.found}"
        raise DataError(message, expected=error.expected, where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"source {source.name!r}: the file cannot be read ({error.__cause__ or error})",
            expected=f"valid {source.format}",
            where=str(path),
            next_command="fetch the file again, or leave it out of the recipe",
        ) from None


def files_entry(source: RowSource, parts: list[dict[str, Json]]) -> dict[str, Json]:
    """Return what `sources.lock` says of the files of a source, given the facts of its parts in order."""
    files: dict[str, dict[str, Json]] = {}
    for part in parts:
        files.setdefault(part["path"], {key: part[key] for key in ("path", "sha256", "size_bytes")})
    return {
        "name": source.name,
        "format": source.format,
        "files": list(files.values()),
        "size_bytes": sum(file["size_bytes"] for file in files.values()),
        "text_column": source.text_column,
        "split": source.split,
        **source.terms_entry(),
        "schema": merged_schema(part["schema"] for part in parts),
        "statistics": {key: sum(part[key] for part in parts) for key in ("num_rows", "num_texts", "text_bytes")},
    }
