"""Sources of type `dataset`: local Parquet and JSONL files."""

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from data_recipes.local_datasets import DatasetReader
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits
from data_recipes.settings import DatasetSource
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import DataError, SourceError

ROWS = [
    {"text": "First row.\r\nSecond line.", "licence": "MIT", "id": 1},
    {"text": "Вторая строка, 第三行。", "licence": "cc0-1.0", "id": 2},
    {"text": "No licence here.", "licence": "ask me", "id": 3},
    {"text": None, "licence": "MIT", "id": 4},
    {"text": "A null one.", "licence": None, "id": 5},
]


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path, rows=ROWS):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}


def source(*paths, **changes):
    values = {
        "type": "dataset",
        "name": "rows",
        "format": paths[0].suffix[1:],
        "files": [{"path": path.name, "sha256": sha256_file(path)} for path in paths],
        "licence_column": "licence",
        "split": "train",
        "as_of": "2026-11-24",
    }
    return DatasetSource.model_validate({**values, **changes})


@dataclass
class Read:
    documents: list
    reports: list
    lock: dict


def read_source(pinned, data_dir):
    reader = DatasetReader(pinned, ReadingContext(ReadingLimits(), data_dir, data_dir))
    documents, reports = [], []
    for part in reader.parts():
        reports.append(PartReport())
        documents += reader.read(part, reports[-1])
    return Read(documents, reports, reader.lock(reports))


@pytest.mark.parametrize("kind", WRITERS)
def test_each_row_is_a_document_with_its_own_licence(kind, tmp_path):
    path = WRITERS[kind](tmp_path / f"rows.{kind}")
    read = read_source(source(path), tmp_path)
    documents = [extracted.document for extracted in read.documents]
    assert [document.text for document in documents] == [
        *("First row.\nSecond line.", "Вторая строка, 第三行。", "No licence here.", "A null one."),
    ]
    assert [document.licence.spdx for document in documents] == ["MIT", "CC0-1.0", "NOASSERTION", "NOASSERTION"]
    assert documents[1].licence.evidence_kind == "dataset-field"
    assert documents[1].licence.evidence_locator == f"rows.{kind}#1:licence"
    assert documents[1].licence.evidence_sha256 == sha256_file(path) == documents[1].source_digest
    assert documents[2].licence.reason
    assert [document.path for document in documents][-1] == f"rows.{kind}#4"
    assert read.reports[0].num_files == 5
    assert read.reports[0].skipped == {"row without text": 1}
    assert read.lock["files"] == [
        {"path": path.name, "sha256": sha256_file(path), "size_bytes": path.stat().st_size},
    ]


def test_both_forms_give_the_same_texts(tmp_path):
    paths = [WRITERS[kind](tmp_path / f"rows.{kind}") for kind in WRITERS]
    read = [read_source(source(path), tmp_path).documents for path in paths]
    texts = [[extracted.document.text_sha256 for extracted in documents] for documents in read]
    assert texts[0] == texts[1]


def test_a_stated_licence_holds_for_all_rows(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    stated = {"spdx": "cc-by-4.0", "evidence": "README: licensed under CC BY 4.0"}
    read = read_source(source(path, licence_column=None, licence=stated), tmp_path)
    findings = {extracted.document.licence for extracted in read.documents}
    (finding,) = findings
    assert finding.spdx == "CC-BY-4.0"
    assert finding.declared == stated["evidence"]
    assert finding.evidence_sha256 == sha256_bytes(stated["evidence"].encode())


def test_several_files_keep_their_own_pins(tmp_path):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", ROWS[start : start + 1]) for start, name in enumerate("ab")]
    documents = [item.document for item in read_source(source(*paths), tmp_path).documents]
    assert [document.path for document in documents] == ["a.jsonl#0", "b.jsonl#0"]
    assert [document.source_digest for document in documents] == [sha256_file(path) for path in paths]


def test_bytes_that_are_no_text_drop_that_row_alone(tmp_path):
    column = pa.array([b"good text", b"bad \xff text"], pa.binary())
    string = pa.Array.from_buffers(pa.string(), 2, column.buffers())
    pq.write_table(pa.table({"text": string, "licence": ["MIT", "MIT"]}), tmp_path / "rows.parquet")
    read = read_source(source(tmp_path / "rows.parquet"), tmp_path)
    assert [extracted.broken for extracted in read.documents] == ["", "undecodable"]


def test_a_missing_file_is_named(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    pinned = source(path)
    path.unlink()
    with pytest.raises(SourceError, match="missing") as caught:
        read_source(pinned, tmp_path)
    assert "rows.jsonl" in caught.value.where
    assert caught.value.next_command


def test_a_changed_file_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    pinned = source(path)
    write_jsonl(path, ROWS[:2])
    with pytest.raises(SourceError, match="sha256"):
        read_source(pinned, tmp_path)


@pytest.mark.parametrize(
    ("kind", "data"), [("jsonl", b'{"text": "a"}\n{"text": '), ("parquet", b"PAR1 not parquet PAR1")]
)
def test_broken_files_are_refused(kind, data, tmp_path):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_source(source(path), tmp_path)
    assert kind in caught.value.expected


@pytest.mark.parametrize(("column", "message"), [("body", "no column 'body'"), ("id", "holds int64")])
def test_a_column_without_text_is_refused(column, message, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=message):
        read_source(source(path, text_column=column), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"licence_column": None},
        {"licence": {"spdx": "MIT", "evidence": "x"}},
        {"licence_column": None, "licence": {"spdx": "my own", "evidence": "x"}},
        {"files": []},
        {"files": [{"path": "/etc/rows.jsonl", "sha256": "0" * 64}]},
        {"files": [{"path": "../rows.jsonl", "sha256": "0" * 64}]},
        {"files": [{"path": "rows.jsonl", "sha256": "latest"}]},
        {"split": "validation"},
        {"as_of": "yesterday"},
    ],
)
def test_recipes_that_pin_too_little_are_refused(changes, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(ValidationError):
        source(path, **changes)
