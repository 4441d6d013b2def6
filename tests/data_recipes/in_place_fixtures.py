"""A recipe whose sources are files of tokens in place, beside rows that are like their documents."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from corpus_fixtures import prose, tiny_corpus_values
from test_token_source import EOS, byte_tokenizer

from provenance.digests import sha256_file

SHARED, LIKE, UNIQUE = prose(1), prose(2, num_paragraphs=8), prose(3)
TRAIN_TEXTS = [prose(number) for number in (10, 11)]
HELDOUT = prose(20)
FIRST = [TRAIN_TEXTS[0], "", SHARED, "short", SHARED, HELDOUT]
"""Texts of the first file; it has an empty document behind each of them, and one of half a character at its end."""
SECOND = [LIKE, TRAIN_TEXTS[1], f"{LIKE}\nOne sentence more.\n"]
"""Texts of the second file, whose last document has no end token."""


def write_recipe(root: Path, **changes: Any) -> dict[str, Any]:
    """Write tokenizer, files of tokens and rows below a directory; returns values of a recipe over them."""
    tokenizer = byte_tokenizer(root / "tokenizer.json")
    ids = [[*tokenizer.encode(text.strip("\n")).ids, EOS] for text in FIRST]
    first = [part for document in ids for part in (document, [])] + [[*tokenizer.encode("я").ids[:1], EOS]]
    second = [[*tokenizer.encode(text.strip("\n")).ids, EOS] for text in SECOND]
    second[-1].pop()
    write_tokens(root / "first.npy", first)
    write_index(root / "first.csv.gz", first)
    write_tokens(root / "second.npy", second)
    write_tokens(root / "third.npy", [[*tokenizer.encode(HELDOUT.strip("\n")).ids, EOS]])
    write_rows(root / "rows.jsonl", [SHARED, f"{LIKE}\nAnother sentence.\n", UNIQUE])
    write_rows(root / "heldout.jsonl", [SHARED, prose(30)])
    values = tiny_corpus_values(root)
    values["sources"] = [
        tokens_source(root, "theirs", [("first.npy", "first.csv.gz"), ("second.npy", None)]),
        tokens_source(root, "theirs-heldout", [("third.npy", None)], split="heldout"),
        rows_source(root, "ours", "rows.jsonl"),
        rows_source(root, "ours-heldout", "heldout.jsonl", split="heldout"),
    ]
    file = {"path": "tokenizer.json", "sha256": sha256_file(root / "tokenizer.json")}
    values["tokenizer"] = {"vocab_size": 261, "file": file, "special_tokens": {"end_of_text": "<eos>"}}
    values["near_duplicates"] = {}
    values["decontamination"] = {"heldout": True}
    return values | changes


def pin(root: Path, name: str) -> dict[str, str]:
    return {"path": name, "sha256": sha256_file(root / name)}


def tokens_source(root: Path, name: str, files: list[tuple[str, str | None]], **changes: Any) -> dict[str, Any]:
    shards = [{"tokens": pin(root, tokens), "index": index and pin(root, index)} for tokens, index in files]
    return {
        "type": "tokens",
        "name": name,
        "format": "olmo",
        "dtype": "u16",
        "shards": shards,
        "tokenizer": pin(root, "tokenizer.json"),
        "eos_id": EOS,
        "licence": {"spdx": "MIT", "evidence": "the card of the shards"},
        "split": "train",
        "as_of": "2026-11-25",
        "in_place": True,
        **changes,
    }


def rows_source(root: Path, name: str, path: str, split: str = "train") -> dict[str, Any]:
    licence = {"spdx": "MIT", "evidence": "LICENSE of the rows"}
    pinned = {"files": [pin(root, path)], "licence": licence, "split": split, "as_of": "2026-11-25"}
    return {"type": "dataset", "name": name, "format": "jsonl", **pinned}


def write_tokens(path: Path, documents: list[list[int]], dtype: str = "<u2") -> None:
    path.write_bytes(np.concatenate([np.array(ids, np.int64) for ids in documents]).astype(dtype).tobytes())


def write_index(path: Path, documents: list[list[int]]) -> None:
    text, end = io.StringIO(), 0
    for number, ids in enumerate(documents):
        csv.writer(text).writerow([end, end + len(ids), f"id-{number}"])
        end += len(ids)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def write_rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
