"""The documents table, its index that needs no library, and the data set files."""

import struct

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_recipes.document import Document, LicenceFinding
from data_recipes.documents import (
    DOCUMENTS_SCHEMA,
    Decision,
    document_row,
    index_bytes,
    text_schema,
    write_dataset,
)
from data_recipes.filters import STATISTIC_TYPES, measure
from data_recipes.part_files import TableWriter
from provenance.digests import sha256_bytes, sha256_file

CODES = {
    "sources": ["s", "t"],
    "licences": ["MIT", "NOASSERTION"],
    "decisions": ["kept", "licence", "min_num_words", "duplicate"],
    "splits": ["none", "train", "heldout"],
}


def row(number, decision=None, licence="MIT", source="s"):
    text = f"Текст документа {number}. 文書。"
    finding = LicenceFinding(licence, "as found", "file-header", "a:1", "e" * 64, "2026-11-24", ("© 2026 Ω",), "why")
    digest = sha256_bytes(text.encode())
    document = Document(source, "d" * 64, f"docs/{number}.rst", "prose", text, digest, digest, finding)
    made = document_row(document, measure(text), decision or Decision(), "MIT", "train")
    return made | {"num_tokens": 0 if decision else 7}


@pytest.fixture
def table():
    made = [
        row(1),
        row(2, Decision("licence"), licence="NOASSERTION"),
        row(3, Decision("min_num_words", 4.0, 30.0), source="t"),
        row(4, Decision("duplicate", duplicate_of="ab" * 32)),
    ]
    return pa.Table.from_pylist(sorted(made, key=lambda item: item["document_id"]), schema=DOCUMENTS_SCHEMA)


def test_every_decision_is_a_row(table):
    by_rule = {entry["rule"]: entry for entry in table.to_pylist()}
    assert by_rule[""]["decision"] == "kept"
    assert by_rule[""]["split"] == "train"
    assert by_rule[""]["cluster_sources"] == ["s"]
    assert by_rule[""]["copyright"] == ["© 2026 Ω"]
    assert by_rule["min_num_words"]["decision"] == "dropped"
    assert by_rule["min_num_words"]["split"] == "none"
    assert (by_rule["min_num_words"]["score"], by_rule["min_num_words"]["threshold"]) == (4.0, 30.0)
    assert by_rule["licence"]["score"] is None
    assert by_rule["duplicate"]["duplicate_of"] == "ab" * 32
    statistics = measure("Текст документа 1. 文書。")
    for name in STATISTIC_TYPES:
        assert by_rule[""][f"stat_{name}"] == getattr(statistics, name)


def test_the_index_agrees_with_the_table(table):
    data = index_bytes(table, CODES)
    assert len(data) == 80 * table.num_rows
    for found, entry in zip(struct.iter_unpack("<32s32sIHHHBBI", data), table.to_pylist(), strict=True):
        document_id, text_sha256, num_tokens, source, licence, decision, split, *reserved = found
        assert document_id.hex() == entry["document_id"]
        assert text_sha256.hex() == entry["text_sha256"]
        assert num_tokens == entry["num_tokens"]
        assert CODES["sources"][source] == entry["source"]
        assert CODES["licences"][licence] == entry["licence_spdx"]
        assert CODES["decisions"][decision] == (entry["rule"] or "kept")
        assert CODES["splits"][split] == entry["split"]
        assert reserved == [0, 0]


def write_texts(path, texts, piece_rows, group_bytes=100):
    rows = [
        {"document_id": str(place), "source": "s", "path": "p", "licence": "MIT", "text": text}
        for place, text in enumerate(texts)
    ]
    with TableWriter(path, text_schema(), group_rows=4, sized_by="text", group_bytes=group_bytes) as writer:
        for start in range(0, len(rows), piece_rows):
            writer.write(pa.Table.from_pylist(rows[start : start + piece_rows], schema=text_schema()))


@pytest.mark.parametrize("piece_rows", [2, 3, 50])
def test_bytes_do_not_depend_on_the_pieces_that_rows_come_in(piece_rows, tmp_path):
    texts = [f"Текст {number} " * (number % 7) for number in range(50)]
    write_texts(tmp_path / "a.parquet", texts, 1)
    write_texts(tmp_path / "b.parquet", texts, piece_rows)
    assert sha256_file(tmp_path / "a.parquet") == sha256_file(tmp_path / "b.parquet")
    write_texts(tmp_path / "c.parquet", texts, 1, group_bytes=1000)
    assert sha256_file(tmp_path / "a.parquet") != sha256_file(tmp_path / "c.parquet")


def test_row_groups_end_where_rows_or_bytes_are_full(tmp_path):
    write_texts(tmp_path / "a.parquet", ["x" * 60, "y" * 50, "z" * 300, *"abcdef"], 2)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert groups == [2, 1, 4, 2]


def test_texts_come_back_through_datasets(tmp_path):
    texts = ["Текст", "文書", ""]
    write_texts(tmp_path / "text.parquet", texts, 2)
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "text.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["document_id", "source", "path", "licence", "text"]
    assert list(loaded["text"]) == texts


def test_an_empty_file_keeps_its_columns(tmp_path):
    write_dataset([], {"a": "string", "b": "int64"}, tmp_path / "empty.parquet")
    table = pq.read_table(tmp_path / "empty.parquet")
    assert table.num_rows == 0
    assert table.column_names == ["a", "b"]


def test_progress_bars_of_datasets_are_left_as_they_were(tmp_path):
    assert not datasets.are_progress_bars_disabled()
    write_dataset([{"a": "x"}], {"a": "string"}, tmp_path / "one.parquet")
    assert not datasets.are_progress_bars_disabled()
