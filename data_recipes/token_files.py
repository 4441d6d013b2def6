"""Token files of Megatron and OLMo-core with the places of their documents, memory-mapped and checked.

Megatron's `.idx`, all little-endian: nine bytes of magic, version 1 (u64), a code of the token type (u8), how many
sequences (u64) and how many document bounds (u64), the length of each sequence (i32), its first byte in the `.bin`
(i64), and the document bounds as sequence numbers (i64). OLMo-core's `.npy` is token ids and nothing else; its
`.csv.gz` has a line for each document: first token, the token after the last, id, source file, place in it.
"""

import csv
import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.windows import TOKEN_DTYPES
from provenance.errors import DataError

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_HEADER = struct.Struct("<QBQQ")
"""What follows the magic: version, type of the tokens, how many sequences and document bounds."""
_MEGATRON_TYPES: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
_BLOCK = 1 << 20
_MAX_FIELD_CHARS = 4096


@dataclass(frozen=True)
class Span:
    """A document of a token file.

    Attributes:
        number: from 0 in the file.
        first: its first token.
        end: the token after its last.
        name: its id where the index has one; else empty.
    """

    number: int
    first: int
    end: int
    name: str = ""


@dataclass(frozen=True)
class Stretch:
    """Documents that follow one another in a token file, and where they stand.

    Attributes:
        first: number of the first.
        end: number after that of the last.
        first_token: first token of the first.
        end_token: token after the last of the last.
    """

    first: int
    end: int
    first_token: int
    end_token: int


def _refuse(path: Path, found: str, expected: str) -> DataError:
    return DataError(found, expected=expected, where=str(path), next_command="fetch the file again, or leave it out")


def map_tokens(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Map a file of token ids.

    Raises:
        DataError: for an empty file, one that is no whole number of ids, and one with a header of numpy's.
    """
    size_bytes = path.stat().st_size
    if size_bytes == 0 or size_bytes % dtype.itemsize:
        raise _refuse(path, f"{size_bytes} bytes", f"a whole number of ids of {dtype.itemsize} bytes")
    tokens: npt.NDArray[Any] = np.memmap(path, dtype, "r")
    if tokens[:8].tobytes().startswith(b"\x93NUMPY"):
        raise _refuse(path, "a header of numpy's", "token ids from the first byte on, as OLMo-core writes them")
    return tokens


def megatron_spans(
    tokens_path: Path, index_path: Path, stretch: Stretch | None = None
) -> tuple[npt.NDArray[Any], Iterator[Span]]:
    """Return the tokens of a `.bin` and its documents in order.

    Args:
        stretch: the documents wanted, of an index that was read whole before: no more of it is read. None for all.

    Raises:
        DataError: for an index that is not whole, is of another kind, or does not fit the file of tokens.
    """
    with index_path.open("rb") as file:
        head = file.read(len(MEGATRON_MAGIC) + MEGATRON_HEADER.size)
    if len(head) < len(MEGATRON_MAGIC) + MEGATRON_HEADER.size or not head.startswith(MEGATRON_MAGIC):
        raise _refuse(index_path, "the beginning is not that of an index", "an .idx file of Megatron")
    version, code, num_sequences, num_bounds = MEGATRON_HEADER.unpack(head[len(MEGATRON_MAGIC) :])
    if version != 1 or code not in _MEGATRON_TYPES:
        raise _refuse(index_path, f"version {version}, token type {code}", "version 1, type 4 (i32) or 8 (u16)")
    size_bytes = len(head) + 12 * num_sequences + 8 * num_bounds
    if index_path.stat().st_size != size_bytes or num_bounds == 0:
        raise _refuse(index_path, f"{index_path.stat().st_size} bytes", f"{size_bytes} bytes, as its header says")
    dtype = _MEGATRON_TYPES[code]
    tokens = map_tokens(tokens_path, dtype)
    lengths = _array(index_path, "<i4", len(head), num_sequences)
    places = _array(index_path, "<i8", len(head) + 4 * num_sequences, num_sequences)
    bounds = _array(index_path, "<i8", len(head) + 12 * num_sequences, num_bounds)
    if stretch is not None:
        return tokens, _stretch_of(index_path, stretch, bounds, places, dtype.itemsize, len(tokens))
    ends = _sequence_ends(index_path, lengths, places, dtype.itemsize, len(tokens))
    return tokens, _documents(index_path, ends, bounds)


def _stretch_of(
    path: Path,
    stretch: Stretch,
    bounds: npt.NDArray[Any],
    places: npt.NDArray[Any],
    item_bytes: int,
    num_tokens: int,
) -> Iterator[Span]:
    """Documents by their own places in the index: a document ends where the sequence behind it begins."""
    sequences = np.asarray(bounds[stretch.first : stretch.end + 1])
    known = (sequences >= 0) & (sequences < len(places))
    edges = np.full(len(sequences), num_tokens, np.int64)
    edges[known] = places[sequences[known]] // item_bytes
    is_whole = len(edges) == stretch.end - stretch.first + 1 and not np.any(np.diff(edges) < 0)
    if not is_whole or (edges[0], edges[-1]) != (stretch.first_token, stretch.end_token):
        raise _refuse(path, "other documents than it had", "an index that nobody changes while it is read")
    return (
        Span(number, int(first), int(end))
        for number, first, end in zip(range(stretch.first, stretch.end), edges[:-1], edges[1:], strict=True)
    )


def _array(path: Path, dtype: str, first_byte: int, count: int) -> npt.NDArray[Any]:
    return np.memmap(path, dtype, "r", first_byte, (count,)) if count else np.zeros(0, dtype)


def _sequence_ends(
    path: Path, lengths: npt.NDArray[Any], places: npt.NDArray[Any], item_bytes: int, num_tokens: int
) -> npt.NDArray[np.int64]:
    """Token after the last of each sequence; sequences have to follow one another without a gap."""
    ends = np.empty(len(lengths), np.int64)
    done = 0
    for first in range(0, len(lengths), _BLOCK):
        block = np.asarray(lengths[first : first + _BLOCK], np.int64)
        if block.min() < 0:
            raise _refuse(path, "a sequence of negative length", "lengths of 0 and more")
        ends[first : first + _BLOCK] = done + np.cumsum(block)
        if np.any(places[first : first + _BLOCK] != (ends[first : first + _BLOCK] - block) * item_bytes):
            raise _refuse(path, "sequences do not follow one another", "each to begin where the one before ends")
        done = int(ends[first : first + _BLOCK][-1])
    if done != num_tokens:
        raise _refuse(path, f"sequences of {done} tokens in all", f"{num_tokens}, as the .bin file has")
    return ends


def _documents(path: Path, ends: npt.NDArray[np.int64], bounds: npt.NDArray[Any]) -> Iterator[Span]:
    if bounds[0] != 0 or bounds[-1] != len(ends) or np.any(np.diff(bounds) < 0):
        raise _refuse(path, "document bounds out of order", f"bounds from 0 to {len(ends)}")

    def spans() -> Iterator[Span]:
        first = 0
        for number in range(len(bounds) - 1):
            last = int(bounds[number + 1])
            end = int(ends[last - 1]) if last else 0
            yield Span(number, first, end)
            first = end

    return spans()


def olmo_spans(
    tokens_path: Path,
    index_path: Path | None,
    dtype: str,
    eos_id: int | None,
    *,
    stretch: Stretch | None = None,
    copy: Callable[[str], None] | None = None,
) -> tuple[npt.NDArray[Any], Iterator[Span]]:
    """Return the tokens of a `.npy` of OLMo-core and its documents in order.

    Args:
        index_path: its `.csv.gz`, or the lines of a stretch in such a file; None finds the documents by `eos_id`, which
            ends each of them.
        stretch: the documents wanted; None for all.
        copy: told the lines of each document before it is yielded.

    Raises:
        DataError: for a file of tokens that is none; while documents are read, for an index that is not whole or
            does not fit.
    """
    tokens = map_tokens(tokens_path, TOKEN_DTYPES[dtype])
    if index_path is not None:
        return tokens, _csv_spans(index_path, len(tokens), stretch, copy)
    assert eos_id is not None
    return tokens, _spans_by_eos(tokens, eos_id, stretch)


def _csv_spans(
    path: Path, num_tokens: int, stretch: Stretch | None, copy: Callable[[str], None] | None
) -> Iterator[Span]:
    begin, done = (0, 0) if stretch is None else (stretch.first, stretch.first_token)
    num_tokens = num_tokens if stretch is None else stretch.end_token
    lines: list[str] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(_short_lines(file, lines)), begin):
                first, end = int(row[0]), int(row[1])
                if first != done or end < first or end > num_tokens:
                    raise ValueError(f"document {number}: tokens {first} to {end} behind token {done}")
                if copy is not None:
                    copy("".join(lines))
                lines.clear()
                yield Span(number, first, end, row[2] if len(row) > 2 else "")
                done = end
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, IndexError) as error:
        raise _refuse(path, f"not an index of these tokens ({error})", "first token, end, id, source, place") from None
    if done != num_tokens:
        raise _refuse(path, f"documents of {done} tokens in all", f"{num_tokens}, as the .npy file has")


def _short_lines(file: Any, lines: list[str]) -> Iterator[str]:
    """Lines of an index, which are added to `lines`; one without an end is not read to its end."""
    while line := file.readline(_MAX_FIELD_CHARS):
        if len(line) == _MAX_FIELD_CHARS:
            raise ValueError("a line is too long")
        lines.append(line)
        yield line


def _spans_by_eos(tokens: npt.NDArray[Any], eos_id: int, stretch: Stretch | None) -> Iterator[Span]:
    number, first = (0, 0) if stretch is None else (stretch.first, stretch.first_token)
    end = len(tokens) if stretch is None else stretch.end_token
    for begin in range(first, end, _BLOCK):
        for place in np.flatnonzero(tokens[begin : min(begin + _BLOCK, end)] == eos_id):
            yield Span(number, first, begin + int(place) + 1)
            number, first = number + 1, begin + int(place) + 1
    if first < end:
        yield Span(number, first, end)
