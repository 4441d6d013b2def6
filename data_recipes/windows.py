"""Reading windows of tokens from the shards of a corpus (`openwright-tokens/1`), memory-mapped and read-only."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.order import OrderSource
from provenance.canonical import Json, read_json
from provenance.digests import sha256_file, tagged_digest
from provenance.errors import DataError

TOKENS_FORMAT = "openwright-tokens/1"
REDACTED_FOLDER = "redacted"
"""Where a bundle keeps blanked copies of token files that hold forgotten documents, under their own paths."""

TOKEN_DTYPES: dict[str, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}
"""Types of token files by the names that `tokens.json` has for them."""

TokenIds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Shard:
    """One shard: its tokens, its mask (rows) or document ends (stream), and how many windows it has."""

    tokens: npt.NDArray[Any]
    mask: Mask | None
    ends: npt.NDArray[np.uint64] | None
    num_windows: int
    num_documents: int


def spread_windows(windows: "TokenWindows", num_windows: int) -> list[tuple[int, int]]:
    """Source number and window of windows spread evenly over a split: those of which held-out losses are made.

    Args:
        num_windows: how many at most.
    """
    places = [(number, window) for number, source in enumerate(windows.sources) for window in range(source.num_windows)]
    count = min(num_windows, len(places))
    return [places[index * len(places) // count] for index in range(count)]


class TokenWindows:
    """The windows of one split, by source and number.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        split: a split of `tokens/tokens.json`, such as `train`.
        window_tokens: targets per window, L; a window holds L + 1 tokens.
        verify: also compare the sha256 of every shard file with `tokens.json`.

    Attributes:
        sources: every source of the split with its number of windows, in file order.
        tokens_digest: digest `tokens/1` of the split.

    Raises:
        DataError: for an unknown format or split, a window length that does not fit, and files that are missing,
            of another size or (verify) of another digest.
    """

    def __init__(self, corpus: Path, split: str, window_tokens: int, *, verify: bool = False) -> None:
        path = corpus / "tokens" / "tokens.json"
        values = read_json(path)
        if values.get("format") != TOKENS_FORMAT:
            raise DataError(f"format {values.get('format')!r}", expected=TOKENS_FORMAT, where=str(path))
        if split not in values["splits"]:
            raise DataError(f"no split {split!r}", expected=f"one of {sorted(values['splits'])}", where=str(path))
        description = values["splits"][split]
        self.split = split
        self.window_tokens = window_tokens
        self.vocab_size: int = values["vocab_size"]
        self.eos_id: int = values["eos_id"]
        self.pad_id: int = values["pad_id"]
        self.layout: str = description["layout"]
        self.tokens_digest: str = description["digest"]
        self._check_window(description, path)
        self._dtype = TOKEN_DTYPES[description["dtype"]]
        if tokens_digest_of(description) != self.tokens_digest:
            raise DataError(f"digest of split {split!r} does not match its shards", where=str(path))
        self._shards = [
            [self._open(corpus, shard, verify) for shard in source["shards"]] for source in description["sources"]
        ]
        self._first_windows = [
            list(accumulate((shard.num_windows for shard in shards), initial=0)) for shards in self._shards
        ]
        self._first_documents = [
            list(accumulate((shard.num_documents for shard in shards), initial=0)) for shards in self._shards
        ]
        self.sources = tuple(
            OrderSource(source["name"], first[-1])
            for source, first in zip(description["sources"], self._first_windows, strict=True)
        )

    def _check_window(self, description: Json, path: Path) -> None:
        if self.window_tokens < 1:
            raise DataError(f"window of {self.window_tokens} tokens", expected="at least 1")
        if self.layout not in ("stream", "rows") or description["dtype"] not in TOKEN_DTYPES:
            raise DataError(
                f"layout {self.layout!r} of {description['dtype']!r}",
                expected="stream or rows of u16 or u32",
                where=str(path),
            )
        if self.layout == "rows" and self.window_tokens != description["width"] - 1:
            raise DataError(
                f"window of {self.window_tokens} tokens",
                expected=f"{description['width'] - 1}, as the rows of split {self.split!r} hold",
                where=str(path),
            )

    def _open(self, corpus: Path, shard: Json, verify: bool) -> _Shard:
        files = shard["files"]
        num_tokens: int = shard["num_tokens"]
        tokens = _map(corpus, files["tokens"], self._dtype, num_tokens, verify)
        if self.layout == "stream":
            ends = _map(corpus, files["ends"], np.dtype("<u8"), shard["num_documents"], verify)
            num_windows = max(0, num_tokens - 1) // self.window_tokens
            return _Shard(tokens, None, ends, num_windows, shard["num_documents"])
        mask = _map(corpus, files["mask"], np.dtype("u1"), num_tokens, verify)
        width = self.window_tokens + 1
        if num_tokens % width:
            raise DataError(f"{num_tokens} tokens", expected=f"whole rows of {width}", where=files["tokens"]["path"])
        return _Shard(tokens, mask, None, num_tokens // width, shard["num_documents"])

    def _locate(self, source: int, window: int) -> tuple[_Shard, int, int]:
        """Shard of a window, its first token in the shard, and how many documents earlier shards hold."""
        if not 0 <= source < len(self.sources) or not 0 <= window < self.sources[source].num_windows:
            raise DataError(f"source {source}, window {window}", expected=f"a window of split {self.split!r}")
        first_windows = self._first_windows[source]
        number = bisect_right(first_windows, window) - 1
        stride = self.window_tokens if self.layout == "stream" else self.window_tokens + 1
        begin = (window - first_windows[number]) * stride
        return self._shards[source][number], begin, self._first_documents[source][number]

    def read(self, source: int, window: int) -> tuple[TokenIds, Mask]:
        """Token ids and mask of one window, both of length L + 1; the mask's first element is 0."""
        ids, mask = np.empty(self.window_tokens + 1, np.int64), np.empty(self.window_tokens + 1, np.uint8)
        self.read_into(source, window, ids, mask)
        return ids, mask

    def read_into(self, source: int, window: int, ids: TokenIds, mask: Mask) -> None:
        """As `read`, into a row of a batch: tokens are copied and widened once, and nothing else is allocated.

        Args:
            ids: [L+1] that takes the token ids.
            mask: [L+1] that takes the mask.
        """
        shard, begin, _ = self._locate(source, window)
        end = begin + self.window_tokens + 1
        ids[:] = shard.tokens[begin:end]
        mask[:] = 1 if shard.mask is None else shard.mask[begin:end]
        mask[0] = 0

    def documents_of(self, source: int, window: int) -> tuple[int, int]:
        """First and last document that a window touches, as ordinals within the source (rows: the row itself)."""
        shard, begin, earlier = self._locate(source, window)
        if shard.ends is None:
            row = earlier + begin // (self.window_tokens + 1)
            return row, row
        first, last = np.searchsorted(shard.ends, np.array([begin, begin + self.window_tokens], "<u8"), side="right")
        return earlier + int(first), earlier + int(last)

    def documents_of_all(self, source: int, windows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """As `documents_of` for many windows of one source of a stream: first and last documents, as arrays."""
        first_windows, length = np.array(self._first_windows[source]), self.window_tokens
        numbers = np.searchsorted(first_windows, windows, side="right") - 1
        firsts, lasts = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
        for number in np.unique(numbers).tolist():
            ends, of_shard = self._shards[source][number].ends, numbers == number
            if ends is None:
                raise DataError(f"layout {self.layout!r}", expected="a split that holds whole documents")
            begins = ((windows[of_shard] - first_windows[number]) * length).astype("<u8")
            earlier = self._first_documents[source][number]
            firsts[of_shard] = earlier + np.searchsorted(ends, begins, side="right")
            lasts[of_shard] = earlier + np.searchsorted(ends, begins + np.uint64(length), side="right")
        return firsts, lasts

    def num_documents(self, source: int) -> int:
        """Documents (rows: rows) of a source."""
        return self._first_documents[source][-1]

    def documents(self, source: int) -> Iterator[npt.NDArray[Any]]:
        """The tokens of every document of a stream, its end-of-text token included, in order.

        Raises:
            DataError: for rows, which are no documents.
        """
        for shard in self._shards[source]:
            if shard.ends is None:
                raise DataError(f"layout {self.layout!r}", expected="a split that holds whole documents")
            begin = 0
            for end in shard.ends.tolist():
                yield shard.tokens[begin:end]
                begin = end

    def document(self, source: int, document: int) -> npt.NDArray[Any]:
        """The tokens of one document of a stream, by its ordinal within the source; raises as `tokens_of`."""
        number, begin, end = self.tokens_of(source, document)
        return self._shards[source][number].tokens[begin:end]

    def tokens_of(self, source: int, document: int) -> tuple[int, int, int]:
        """Where the tokens of a document of a stream lie: number of the shard, first token in it, and the one after.

        Args:
            document: ordinal within the source.

        Raises:
            DataError: for a document that the source lacks, and for rows, which no documents end in.
        """
        first_documents = self._first_documents[source]
        number = bisect_right(first_documents, document) - 1
        if not 0 <= document < first_documents[-1] or (ends := self._shards[source][number].ends) is None:
            raise DataError(f"document {document} of source {source}", expected=f"a document of split {self.split!r}")
        place = document - first_documents[number]
        return number, int(ends[place - 1]) if place else 0, int(ends[place])

    def windows_of(self, source: int, document: int, tokens: tuple[int, int] | None = None) -> range:
        """The windows that touch any token of a document of a stream, or of a part of it; raises as `tokens_of`.

        Args:
            tokens: first token within the document and the one past the last, for a part of it.
        """
        number, begin, end = self.tokens_of(source, document)
        if tokens is not None:
            begin, end = begin + tokens[0], min(end, begin + tokens[1])
        length, num_windows = self.window_tokens, self._shards[source][number].num_windows
        # Window w holds the tokens w*L .. w*L + L: the last of them is also the first of the next window.
        first, past = max(0, -(-(begin - length) // length)), (end - 1) // length + 1
        offset = self._first_windows[source][number]
        return range(offset + min(first, num_windows), offset + min(past, num_windows))


def tokens_digest_of(description: Json) -> str:
    """Digest `tokens/1` of one split as `tokens.json` describes it."""
    sources = [
        {
            "name": source["name"],
            "shards": [
                {
                    "num_tokens": shard["num_tokens"],
                    "files": {role: file["sha256"] for role, file in shard["files"].items()},
                }
                for shard in source["shards"]
            ],
        }
        for source in description["sources"]
    ]
    fields = {key: description[key] for key in ("layout", "dtype", "width")}
    return tagged_digest("tokens/1", {**fields, "sources": sources})


def token_digest(ids: npt.NDArray[Any], mask: npt.NDArray[Any]) -> str:
    """Digest of what a step was fed: for each window its ids as u32, then its mask as u8.

    Args:
        ids: [N, L+1] token ids in slot order.
        mask: [N, L+1], 1 where the token is a trained target.
    """
    digest = hashlib.sha256()
    for row_ids, row_mask in zip(ids, mask, strict=True):
        digest.update(row_ids.astype("<u4").tobytes())
        digest.update(row_mask.astype("u1").tobytes())
    return digest.hexdigest()


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself, or one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def shard_file(corpus: Path, path: str) -> Path:
    """Where a file of token shards lies: at its path or, after a takedown, as a copy with some tokens blanked."""
    original, copy = corpus / path, corpus / REDACTED_FOLDER / path
    return copy if not original.is_file() and copy.is_file() else original


def _map(corpus: Path, file: Json, dtype: np.dtype[Any], length: int, verify: bool) -> npt.NDArray[Any]:
    path = shard_file(corpus, file["path"])
    if not path.is_file() or path.stat().st_size != length * dtype.itemsize:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise DataError(found, expected=f"{length * dtype.itemsize} bytes", where=str(path))
    if verify and sha256_file(path) != file["sha256"]:
        raise DataError("the digest is not the one of tokens.json", expected=file["sha256"], where=str(path))
    if length == 0:
        return np.empty(0, dtype)
    # A plain array over the map: slicing a memmap object costs more than the copy of a short window.
    return np.memmap(path, dtype, "r", shape=(length,)).view(np.ndarray)
