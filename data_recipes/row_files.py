"""Rows of data files, read as a stream: Parquet through `datasets`, JSON lines and plain text line by line.

JSON lines are not read with the `json` builder of `datasets`: it takes the types of all rows from the first ten
megabytes, so that a later row of another type ends the reading, a text that looks like a date becomes a date, one bad
line makes the whole file unreadable, and a line of any length is held in memory. Here a bad line is a bad row.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_recipes.documents import quiet_datasets
from data_recipes.licence_fields import licence_text
from data_recipes.line_reader import ByteStream, Line, read_lines
from data_recipes.row_schema import SchemaSeen
from data_recipes.row_settings import RowSource
from data_recipes.text import OVERSIZED, UNDECODABLE, UNPARSABLE
from provenance.digests import sha256_bytes
from provenance.errors import DataError

_BATCH_ROWS = 256
_BLOCK_BYTES = 1 << 20
_LINE_OVERHEAD_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: from 0 in its file: the row, or the line.
        raw: bytes of the text; None where there is none, or where the row is broken.
        licence: its licence field as found; None where there is none.
        broken: the rule of reading that it breaks.
        raw_sha256: digest of the text's bytes, or of all bytes of a broken row.
    """

    number: int
    raw: bytes | None
    licence: str | None = None
    broken: str = ""
    raw_sha256: str = ""


def json_rows(
    stream: ByteStream, source: RowSource, max_bytes: int, first_line: int, seen: SchemaSeen
) -> Iterator[Row]:
    """Yield the rows of JSON lines; blank lines are none.

    Args:
        max_bytes: longest text; a line may be as long as that, escapes counted, and 1 MiB more.
        first_line: number of the stream's first line.
        seen: takes up the columns.
    """
    for line in read_lines(stream, max_bytes + _LINE_OVERHEAD_BYTES, first_line):
        if line.data is None:
            yield Row(line.number, None, broken=OVERSIZED, raw_sha256=line.sha256)
        elif line.data.strip():
            yield _json_row(line, source, seen)


def _json_row(line: Line, source: RowSource, seen: SchemaSeen) -> Row:
    assert line.data is not None
    data = line.data.removeprefix(_BYTE_ORDER_MARK) if line.number == 0 else line.data
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Row(line.number, None, broken=UNDECODABLE, raw_sha256=sha256_bytes(line.data))
    except (ValueError, RecursionError):
        return Row(line.number, None, broken=UNPARSABLE, raw_sha256=sha256_bytes(line.data))
    if not isinstance(values, dict):
        return Row(line.number, None, broken=UNPARSABLE, raw_sha256=sha256_bytes(line.data))
    seen.add_object(values)
    text = field_of(values, source.text_column)
    if text is not None and not isinstance(text, str):
        return Row(line.number, None, broken=UNPARSABLE, raw_sha256=sha256_bytes(line.data))
    licence = None if source.licence_column is None else licence_text(field_of(values, source.licence_column))
    # A lone surrogate is no character; it goes when the text is normalised, and must not end the reading here.
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
    return Row(line.number, raw, licence)


def field_of(values: dict[str, Any], column: str) -> Any:
    """Return the value of a column or, of a dotted name, of a field inside it; None where there is none."""
    if column in values:
        return values[column]
    found: Any = values
    for name in column.split("."):
        if isinstance(found, str):
            found = _parsed(found)
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _parsed(text: str) -> Any:
    """A column of JSON as text, as some data sets keep their metadata."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def text_rows(
    stream: ByteStream, source: RowSource, max_bytes: int, first_line: int, seen: SchemaSeen
) -> Iterator[Row]:
    """Yield the lines of a text file that are not blank, or the whole file as one row."""
    seen.add(source.text_column, "string")
    if source.text_unit == "file":
        yield _whole_file(stream, max_bytes)
        return
    for line in read_lines(stream, max_bytes, first_line):
        if line.data is None:
            yield Row(line.number, None, broken=OVERSIZED, raw_sha256=line.sha256)
        elif line.data.strip():
            yield Row(line.number, line.data)


def _whole_file(stream: ByteStream, max_bytes: int) -> Row:
    """Return the file as one row; of one that is too long only the digest is kept."""
    pieces: list[bytes] = []
    digest, size_bytes = hashlib.sha256(), 0
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        size_bytes += len(block)
        pieces.append(block)
        if size_bytes > max_bytes:
            pieces.clear()
    if size_bytes > max_bytes:
        return Row(0, None, broken=OVERSIZED, raw_sha256=digest.hexdigest())
    return Row(0, b"".join(pieces))


def parquet_rows(path: Path, source: RowSource, row_groups: range, first_row: int, seen: SchemaSeen) -> Iterator[Row]:
    """Yield the rows of some row groups of a Parquet file.

    Args:
        first_row: number of the first row of the first of these groups.

    Raises:
        DataError: for a missing column or one without text.
        OSError, ValueError: for a file that cannot be read.
    """
    import datasets  # heavy; a corpus without such sources never loads it here

    number = first_row
    with tempfile.TemporaryDirectory(prefix="openwright-dataset-") as cache, quiet_datasets():
        try:
            for table in _tables(path, source, row_groups, cache, seen):
                yield from _table_rows(table, source, number)
                number += table.num_rows
        except (KeyError, TypeError, AttributeError, RecursionError, datasets.exceptions.DatasetsError) as error:
            # The library trusts what the file says of its columns.
            raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from None


def _tables(path: Path, source: RowSource, row_groups: range, cache: str, seen: SchemaSeen) -> Iterator[Any]:
    """Yield the wanted columns of some row groups, a few hundred rows at a time."""
    import datasets

    options = {"data_files": str(path), "split": "train", "streaming": True, "cache_dir": cache}
    schema = datasets.load_dataset("parquet", **options).features.arrow_schema
    for name, kind in zip(schema.names, schema.types, strict=True):
        seen.add(name, str(kind))
    wanted = [_top(schema.names, column) for column in (source.text_column, source.licence_column) if column]
    options |= {"columns": sorted(set(wanted)), "batch_size": _BATCH_ROWS}
    groups = datasets.load_dataset("parquet", **options).reshard().with_format("arrow")
    for group in row_groups:
        yield from groups.shard(groups.num_shards, group, contiguous=True).iter(_BATCH_ROWS)


def _top(names: Sequence[str], column: str) -> str:
    """Return the column that holds a possibly dotted name."""
    top = column if column in names else column.split(".")[0]
    if top not in names:
        raise DataError(f"there is no column {column!r}", expected=f"one of {', '.join(names)}")
    return top


def _table_rows(table: Any, source: RowSource, first_row: int) -> Iterator[Row]:
    texts = _column(table, source.text_column)
    if not isinstance(texts, list):
        if pa.types.is_string_view(texts.type):
            texts = texts.cast(pa.large_string())
        kind = texts.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise DataError(f"column {source.text_column!r} holds {kind}", expected="text")
        # As bytes, so that one row of bad UTF-8 is that row's problem alone.
        texts = texts.cast(pa.large_binary()).to_pylist()
    licences = [None] * table.num_rows if source.licence_column is None else _licences(table, source.licence_column)
    for number, (text, licence) in enumerate(zip(texts, licences, strict=True), first_row):
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        said = licence.decode("utf-8", "replace") if isinstance(licence, bytes) else licence
        yield Row(number, raw, licence_text(said))


def _licences(table: Any, column: str) -> list[Any]:
    found = _column(table, column)
    if isinstance(found, list):
        return found
    is_text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
    values: list[Any] = (found.cast(pa.large_binary()) if is_text else found).to_pylist()
    return values


def _column(table: Any, column: str) -> Any:
    """Return a column or a field inside one: an array, or a list of values where it is kept as JSON text."""
    top = _top(table.column_names, column)
    array = table.column(top).combine_chunks()
    names = column.split(".")[1:] if top != column else []
    for place, name in enumerate(names):
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            rest = ".".join(names[place:])
            values = (_parsed(text) if text else None for text in array.to_pylist())
            return [field_of(value, rest) if isinstance(value, dict) else None for value in values]
        if not pa.types.is_struct(array.type) or array.type.get_field_index(name) < 0:
            raise DataError(f"column {top!r} holds {array.type}", expected=f"a field {name!r} in it")
        array = pc.struct_field(array, name)
    return array
