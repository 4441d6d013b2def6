"""Megatron export: read back by a reader that is written here from the format, with nothing of the project."""

import hashlib
import json
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_recipes.megatron_export import export_megatron
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from provenance.errors import DataError

TYPES = {4: "<i4", 8: "<u2"}


def read_pair(prefix: Path) -> list[list[int]]:
    """Documents of a `.bin`/`.idx` pair."""
    index, tokens = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    at = 9 + struct.calcsize("<QBQQ")
    lengths = struct.unpack_from(f"<{num_sequences}i", index, at)
    pointers = struct.unpack_from(f"<{num_sequences}q", index, at + 4 * num_sequences)
    bounds = struct.unpack_from(f"<{num_bounds}q", index, at + 12 * num_sequences)
    assert len(index) == at + 12 * num_sequences + 8 * num_bounds
    sequences = [
        np.frombuffer(tokens, TYPES[code], length, pointer).tolist()
        for length, pointer in zip(lengths, pointers, strict=True)
    ]
    assert sum(lengths) * np.dtype(TYPES[code]).itemsize == len(tokens)
    return [[token for sequence in sequences[begin:end] for token in sequence] for begin, end in pairwise(bounds)]


def _key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _corpus(root: Path, dtype: str, layout: str = "stream") -> dict[str, list[list[int]]]:
    """Documents of two sources, in the order of their keys."""
    rng = np.random.default_rng(7)
    highest = 60_000 if dtype == "u16" else 200_000
    documents = {_key(n): rng.integers(0, highest, int(rng.integers(1, 40))) for n in range(23)}
    sequences = [
        TokenSequence(key, "alpha" if number % 3 else "бета", ids, None)
        for number, (key, ids) in enumerate(documents.items())
    ]
    if layout == "rows":
        sequences = [TokenSequence(s.key, s.source, np.arange(8), np.ones(8, np.uint8)) for s in sequences]
    width = 8 if layout == "rows" else 0
    entry = write_split(root, "train", sequences, layout=layout, width=width, dtype=dtype, num_shards=3)
    write_tokens_json(root, {"train": entry}, vocab_size=highest, eos_id=0, pad_id=1, tokenizer_sha256="a" * 64)
    found: dict[str, list[list[int]]] = {}
    for sequence in sorted(sequences, key=lambda sequence: sequence.key):
        found.setdefault(sequence.source, []).append(sequence.ids.tolist())
    return found


@pytest.mark.parametrize("dtype", ["u16", "u32"])
def test_another_reader_finds_the_same_documents(tmp_path, dtype):
    expected = _corpus(tmp_path / "corpus", dtype)
    description = export_megatron(tmp_path / "corpus", "train", tmp_path / "out")
    assert [source["name"] for source in description["sources"]] == sorted(expected)
    for source in description["sources"]:
        assert read_pair(tmp_path / "out" / source["prefix"]) == expected[source["name"]]
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == description
    for file in description["files"]:
        assert hashlib.sha256((tmp_path / "out" / file["path"]).read_bytes()).hexdigest() == file["sha256"]


def test_documents_are_written_in_blocks_as_they_are_at_once(tmp_path, monkeypatch):
    _corpus(tmp_path / "corpus", "u16")
    export_megatron(tmp_path / "corpus", "train", tmp_path / "once")
    monkeypatch.setattr("data_recipes.megatron_export._BLOCK_DOCUMENTS", 3)
    export_megatron(tmp_path / "corpus", "train", tmp_path / "blocks")
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes()


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path):
    _corpus(tmp_path / "rows", "u16", layout="rows")
    with pytest.raises(DataError, match="rows with labels"):
        export_megatron(tmp_path / "rows", "train", tmp_path / "out")
    _corpus(tmp_path / "corpus", "u16")
    with pytest.raises(DataError, match="no split"):
        export_megatron(tmp_path / "corpus", "validation", tmp_path / "out")
    next((tmp_path / "corpus" / "tokens" / "train" / "alpha").glob("tokens-*.bin")).unlink()
    with pytest.raises(DataError, match="not all here"):
        export_megatron(tmp_path / "corpus", "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists"):
        export_megatron(tmp_path / "corpus", "train", tmp_path / "out")
