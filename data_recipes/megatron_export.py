"""Export of token shards as Megatron `.bin`/`.idx` pairs, one per source, documents in the order of the shards.

The `.bin` file is the tokens of all shards of a source one after another. The `.idx` file, all little-endian: nine
bytes of magic, version 1 (u64), a code of the token type (u8), how many sequences (u64) and how many document bounds
(u64) there are, the length of each sequence (i32), its first byte (i64), and the document bounds (i64): 0, 1, 2, ...,
since each document is one sequence.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data_recipes.shards import safe_name
from data_recipes.token_files import MEGATRON_HEADER, MEGATRON_MAGIC
from data_recipes.windows import TOKEN_DTYPES, TOKENS_FORMAT
from provenance.canonical import Json, read_json, write_json
from provenance.digests import hash_files
from provenance.errors import DataError

EXPORT_FORMAT = "openwright-export/1"
EXPORT_NAME = "export.json"
_CODES = {"u16": 8, "u32": 4}  # Megatron has no u32: the ids of any vocabulary fit i32 as well
_BLOCK_DOCUMENTS = 1 << 20


def export_megatron(corpus: Path, split: str, target: Path) -> dict[str, Json]:
    """Write the split of a corpus for Megatron, and `export.json`, which says what was exported.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        split: a split of documents, such as `train`.
        target: a new directory.

    Returns:
        The content of `export.json`.

    Raises:
        DataError: for an unknown split, one of rows with labels, and tokens that are not here.
    """
    tokens = read_json(corpus / "tokens" / "tokens.json")
    where = str(corpus / "tokens" / "tokens.json")
    if tokens.get("format") != TOKENS_FORMAT or split not in tokens["splits"]:
        splits = ", ".join(sorted(tokens.get("splits", ())))
        expected = f"{TOKENS_FORMAT} with that split; here are {splits}"
        raise DataError(f"no split {split!r}", expected=expected, where=where, next_command="one of these as the split")
    entry = tokens["splits"][split]
    if entry["layout"] != "stream":
        raise DataError(
            f"split {split!r} holds rows with labels", expected="a split of documents: Megatron keeps no labels"
        )
    if tokens["vocab_size"] > 2**31:
        raise DataError(f"a vocabulary of {tokens['vocab_size']} tokens", expected="at most 2^31", where=where)
    require_new(target)
    paths = [path for source in entry["sources"] for path in _token_files(corpus, source)]
    target.mkdir(parents=True)
    for source in entry["sources"]:
        _export_source(corpus, source, entry["dtype"], target / safe_name(source["name"]))
    description: dict[str, Json] = {
        "format": EXPORT_FORMAT,
        "target": "megatron",
        "split": split,
        "tokens_digest": entry["digest"],
        "tokenizer_sha256": tokens["tokenizer_sha256"],
        "vocab_size": tokens["vocab_size"],
        "eos_id": tokens["eos_id"],
        "num_token_files": len(paths),
        "sources": [
            {
                "name": source["name"],
                "prefix": safe_name(source["name"]),
                "num_documents": source["num_documents"],
                "num_tokens": source["num_tokens"],
            }
            for source in entry["sources"]
        ],
        "files": [file.as_json() for file in hash_files(target, sorted(target.iterdir()))],
    }
    write_json(target / EXPORT_NAME, description)
    return description


def require_new(target: Path) -> None:
    """Refuse a directory that exists: what is in it would stand beside an export that does not list it.

    Raises:
        DataError: naming it.
    """
    if target.exists():
        raise DataError(
            "the directory exists", expected="a new one", where=str(target), next_command="name another directory"
        )


def _token_files(corpus: Path, source: Json) -> list[Path]:
    paths = [corpus / shard["files"]["tokens"]["path"] for shard in source["shards"]]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"the tokens of source {source['name']!r} are not all here",
                expected="a corpus, or a bundle that ships the tokens of all its sources whole",
                where=str(path),
            )
    return paths


def _export_source(corpus: Path, source: Json, dtype: str, prefix: Path) -> None:
    with prefix.with_name(f"{prefix.name}.bin").open("wb") as target:
        for path in _token_files(corpus, source):
            with path.open("rb") as tokens:
                shutil.copyfileobj(tokens, target, 1 << 20)
    num_documents = source["num_documents"]
    with prefix.with_name(f"{prefix.name}.idx").open("wb") as index:
        index.write(MEGATRON_MAGIC + MEGATRON_HEADER.pack(1, _CODES[dtype], num_documents, num_documents + 1))
        for lengths in _lengths(corpus, source):
            index.write(lengths.astype("<i4").tobytes())
        _write_pointers(index, _lengths(corpus, source), TOKEN_DTYPES[dtype].itemsize)
        for begin in range(0, num_documents + 1, _BLOCK_DOCUMENTS):
            index.write(np.arange(begin, min(begin + _BLOCK_DOCUMENTS, num_documents + 1), dtype="<i8").tobytes())


def _write_pointers(index: IO[bytes], blocks: Iterator[npt.NDArray[Any]], item_bytes: int) -> None:
    first = 0
    for lengths in blocks:
        ends = first + np.cumsum(lengths)
        index.write(((ends - lengths) * item_bytes).astype("<i8").tobytes())
        first = int(ends[-1])


def _lengths(corpus: Path, source: Json) -> Iterator[npt.NDArray[np.int64]]:
    """Tokens of each document of a source, a block of documents at a time."""
    for shard in source["shards"]:
        ends = np.memmap(corpus / shard["files"]["ends"]["path"], "<u8", "r", shape=(shard["num_documents"],))
        before = 0
        for begin in range(0, len(ends), _BLOCK_DOCUMENTS):
            block = np.asarray(ends[begin : begin + _BLOCK_DOCUMENTS], np.int64)
            lengths = np.diff(block, prepend=before)
            if lengths.max() >= 2**31:
                raise DataError(
                    f"a document of {lengths.max():,} tokens", expected="fewer than 2^31: the index has i32"
                )
            before = int(block[-1])
            yield lengths
