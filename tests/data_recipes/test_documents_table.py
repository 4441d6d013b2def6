"""The documents table, its index that needs no library, and the data set files."""

import json
import struct

import datasets
import pyarrow.parquet as pq
import pytest

from data_recipes.document import Document, LicenceFinding
from data_recipes.documents import Decision, DocumentRow, write_dataset, write_documents, write_texts
from data_recipes.filters import STATISTIC_TYPES, measure
from provenance.digests import sha256_bytes, sha256_file

RULES = ("undecodable", "licence", "min_num_words", "duplicate")


def row(number, decision=None, licence="MIT", source="s"):
    text = f"Текст документа {number}. 文書。"
    finding = LicenceFinding(licence, "as found", "file-header", "a:1", "e" * 64, "2026-11-24", ("© 2026 Ω",), "why")
    digest = sha256_bytes(text.encode())
    document = Document(source, "d" * 64, f"docs/{number}.rst", "prose", text, digest, digest, finding)
    kept = decision is None
    return DocumentRow(
        document,
        measure(text),
        decision or Decision(),
        "train" if kept else "none",
        7 if kept else 0,
        "MIT" if kept else "",
        ("s", "t") if kept else (),
        ("MIT",) if kept else (),
    )


@pytest.fixture
def rows():
    made = [
        row(1),
        row(2, Decision("licence"), licence="NOASSERTION"),
        row(3, Decision("min_num_words", 4.0, 30.0), source="t"),
        row(4, Decision("duplicate", duplicate_of="ab" * 32)),
    ]
    return sorted(made, key=lambda item: item.document.document_id)


def test_every_decision_is_a_row(rows, tmp_path):
    write_documents(rows, RULES, tmp_path)
    table = pq.read_table(tmp_path / "documents-00000.parquet").to_pylist()
    assert [entry["document_id"] for entry in table] == [item.document.document_id for item in rows]
    by_rule = {entry["rule"]: entry for entry in table}
    assert by_rule[""]["decision"] == "kept"
    assert by_rule[""]["cluster_sources"] == ["s", "t"]
    assert by_rule[""]["copyright"] == ["© 2026 Ω"]
    assert by_rule["min_num_words"]["decision"] == "dropped"
    assert (by_rule["min_num_words"]["score"], by_rule["min_num_words"]["threshold"]) == (4.0, 30.0)
    assert by_rule["licence"]["score"] is None
    assert by_rule["duplicate"]["duplicate_of"] == "ab" * 32
    (kept,) = [item for item in rows if not item.decision.rule]
    for name in STATISTIC_TYPES:
        assert by_rule[""][f"stat_{name}"] == getattr(kept.statistics, name)


def test_the_index_agrees_with_the_table(rows, tmp_path):
    write_documents(rows, RULES, tmp_path)
    codes = json.loads((tmp_path / "codes.json").read_text())
    data = (tmp_path / "index-00000.bin").read_bytes()
    table = pq.read_table(tmp_path / "documents-00000.parquet").to_pylist()
    assert len(data) == 80 * len(table)
    assert codes["decisions"][0] == "kept"
    assert codes["splits"][0] == "none"
    for found, entry in zip(struct.iter_unpack("<32s32sIHHHBBI", data), table, strict=True):
        document_id, text_sha256, num_tokens, source, licence, decision, split, *reserved = found
        assert document_id.hex() == entry["document_id"]
        assert text_sha256.hex() == entry["text_sha256"]
        assert num_tokens == entry["num_tokens"]
        assert codes["sources"][source] == entry["source"]
        assert codes["licences"][licence] == entry["licence_spdx"]
        assert codes["decisions"][decision] == (entry["rule"] or "kept")
        assert codes["splits"][split] == entry["split"]
        assert reserved == [0, 0]


def test_bytes_are_the_same_every_time(rows, tmp_path):
    for name in ("a", "b"):
        write_documents(rows, RULES, tmp_path / name)
        write_texts(rows, tmp_path / name / "text.parquet")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    assert all(sha256_file(tmp_path / "a" / name) == sha256_file(tmp_path / "b" / name) for name in files)


def test_texts_come_back_through_datasets(rows, tmp_path):
    write_texts(rows, tmp_path / "text.parquet")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "text.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["document_id", "source", "path", "licence", "text"]
    assert list(loaded["text"]) == [item.document.text for item in rows]


def test_an_empty_file_keeps_its_columns(tmp_path):
    write_dataset([], {"a": "string", "b": "int64"}, tmp_path / "empty.parquet")
    table = pq.read_table(tmp_path / "empty.parquet")
    assert table.num_rows == 0
    assert table.column_names == ["a", "b"]


def test_progress_bars_of_datasets_are_left_as_they_were(tmp_path):
    assert not datasets.are_progress_bars_disabled()
    write_dataset([{"a": "x"}], {"a": "string"}, tmp_path / "one.parquet")
    assert not datasets.are_progress_bars_disabled()
