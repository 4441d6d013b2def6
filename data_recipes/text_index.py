"""Exact search in the text of a split: a suffix array over what its tokens stand for, memory-mapped.

The text is made again from the token shards, document after document, in chunks of whole documents that are sorted one
by one, so that memory does not grow with the corpus. Between documents stands a byte that no UTF-8 text has: a match
lies in one document.
"""

import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_recipes.token_texts import TokenTexts
from data_recipes.windows import TokenWindows
from provenance.canonical import Json, read_json, write_json
from provenance.console import progress
from provenance.errors import ConfigError, DataError

INDEX_FORMAT = "openwright-text-index/2"
CHUNK_BYTES = 1 << 27
"""Text of one suffix array; sorting it takes five bytes of memory for each, and a document is never cut."""

_SEPARATOR = b"\xff"
_MAX_CHUNK_BYTES = 2**31 - 1

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Match:
    """One place where a passage stands.

    Attributes:
        source: name of the source.
        document: ordinal within the source.
        begin: first byte of the passage within the document's text.
        before: text before it, some bytes.
        after: text after it.
    """

    source: str
    document: int
    begin: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class _Chunk:
    """Some documents of one source: their text, its suffixes in order, and where each document begins in it."""

    source: str
    first_document: int
    text: Bytes
    suffixes: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def range_of(self, passage: bytes) -> tuple[int, int]:
        """First suffix that begins with a passage, and the one past the last."""

        def head(number: int) -> bytes:
            begin = int(self.suffixes[number])
            return self.text[begin : begin + len(passage)].tobytes()

        suffixes = range(len(self.suffixes))
        first = bisect_left(suffixes, passage, key=head)
        return first, bisect_right(suffixes, passage, lo=first, key=head)

    def match(self, suffix: int, length: int, context: int) -> Match:
        """The place of a suffix."""
        place = int(self.suffixes[suffix])
        document = int(np.searchsorted(self.starts, place, side="right")) - 1
        begin = int(self.starts[document])
        end = int(self.starts[document + 1]) - 1 if document + 1 < len(self.starts) else len(self.text) - 1
        before = self.text[max(begin, place - context) : place].tobytes()
        after = self.text[place + length : min(end, place + length + context)].tobytes()
        return Match(self.source, self.first_document + document, place - begin, before, after)


class TextIndex:
    """The index in a directory.

    Raises:
        DataError: when the directory holds no index of this version.
    """

    def __init__(self, directory: Path) -> None:
        values = read_json(directory / "index.json")
        if values.get("format") != INDEX_FORMAT:
            raise DataError(f"format {values.get('format')!r}", expected=INDEX_FORMAT, where=str(directory))
        self.size_bytes = sum(chunk["size_bytes"] for chunk in values["chunks"])
        self._chunks = [
            _Chunk(chunk["source"], chunk["first_document"], *_map_chunk(directory, number))
            for number, chunk in enumerate(values["chunks"])
        ]

    def find(self, wanted: bytes, limit: int, context: int) -> tuple[int, list[Match]]:
        """How often a passage stands in the split, and its first places in the order of the corpus.

        Where it stands more than `limit` times in a chunk, those of them are given whose continuation sorts first.

        Args:
            wanted: the passage in the tokenizer's normal form, compared byte by byte.
            limit: most places to give.
            context: bytes before and after.
        """
        total = 0
        matches: list[Match] = []
        for chunk in self._chunks:
            first, past = chunk.range_of(wanted)
            total += past - first
            found = [chunk.match(n, len(wanted), context) for n in range(first, min(past, first + limit))]
            matches += sorted(found, key=lambda match: (match.document, match.begin))
        return total, matches[:limit]


def _map_chunk(directory: Path, number: int) -> tuple[Bytes, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    kinds = (("text", "u1"), ("suffixes", "<i4"), ("starts", "<i8"))
    text, suffixes, starts = (
        np.memmap(directory / f"{name}-{number:05d}.bin", kind, "r").view(np.ndarray) for name, kind in kinds
    )
    return text, suffixes, starts


def open_text_index(
    windows: TokenWindows, texts: TokenTexts, directory: Path, chunk_bytes: int = CHUNK_BYTES
) -> TextIndex:
    """Open the index of a split, and make it first where the directory is not there.

    Raises:
        ConfigError: when it has to be made and the library is not installed.
        DataError: for fine-tuning rows, which are no running text, and a document of 2 GB.
    """
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f"{directory.name}."))
        try:
            _build(windows, texts, unfinished, chunk_bytes)
            unfinished.rename(directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return TextIndex(directory)


def _build(windows: TokenWindows, texts: TokenTexts, directory: Path, chunk_bytes: int) -> None:
    try:
        import pydivsufsort
    except ImportError:
        raise ConfigError(
            "pydivsufsort is not installed",
            expected="the library that sorts the suffixes of a text",
            next_command="pip install 'openwright[search]'",
        ) from None
    chunks: list[Json] = []
    total = sum(windows.num_documents(source) for source in range(len(windows.sources)))
    with progress("indexing", total, "documents") as bar:
        for source, first, documents in _chunks_of(windows, texts, chunk_bytes):
            data = _SEPARATOR.join([*documents, b""])
            if len(data) > _MAX_CHUNK_BYTES:
                raise DataError(f"a document of {len(data):,} bytes", expected=f"at most {_MAX_CHUNK_BYTES:,}")
            starts = list(accumulate((len(document) + 1 for document in documents), initial=0))[:-1]
            text = np.frombuffer(bytearray(data), np.uint8)
            suffixes = pydivsufsort.divsufsort(text).astype("<i4")
            for name, values in (("text", text), ("suffixes", suffixes), ("starts", np.array(starts, "<i8"))):
                values.tofile(directory / f"{name}-{len(chunks):05d}.bin")
            chunks.append({"source": source, "first_document": first, "size_bytes": len(data)})
            bar.advance(len(documents))
    write_json(directory / "index.json", {"format": INDEX_FORMAT, "chunks": chunks})


def _chunks_of(windows: TokenWindows, texts: TokenTexts, chunk_bytes: int) -> Iterator[tuple[str, int, list[bytes]]]:
    """Texts of documents in chunks: name of the source, ordinal of the first document, the texts."""
    for number, source in enumerate(windows.sources):
        first, size_bytes = 0, 0
        documents: list[bytes] = []
        for ids in windows.documents(number):
            if len(ids) and int(ids.max()) >= len(texts.of_id):
                raise DataError(f"token {ids.max()} of {source.name!r}", expected=f"an id below {len(texts.of_id)}")
            text = texts.document(ids.tolist())
            if documents and size_bytes + len(text) >= chunk_bytes:
                yield source.name, first, documents
                first, size_bytes, documents = first + len(documents), 0, []
            documents.append(text)
            size_bytes += len(text) + 1
        if documents:
            yield source.name, first, documents
