"""Sources of type `dataset`: local Parquet, JSONL and text files, plain and compressed, whole and damaged."""

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from test_line_reader import compressed

from data_recipes import row_parts
from data_recipes.local_datasets import DatasetReader
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits, SourcePart
from data_recipes.row_settings import DatasetSource
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


def read_source(pinned, data_dir, limits=None):
    reader = DatasetReader(pinned, ReadingContext(limits or ReadingLimits(), data_dir, data_dir))
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


@pytest.mark.parametrize("data", [b"PAR1 not parquet PAR1", b"", b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(data, tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_source(source(path), tmp_path)
    assert "parquet" in caught.value.expected


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_parquet_file_is_refused(damage, tmp_path):
    path = write_parquet(
        tmp_path / "rows.parquet", [{**row, "text": f"{row['text']} {n}"} for n in range(99) for row in ROWS]
    )
    data = path.read_bytes()
    path.write_bytes(data[:-40] if damage == "cut" else data[:100] + bytes(400) + data[500:])
    with pytest.raises(DataError, match="cannot be read"):
        read_source(source(path), tmp_path)


REFUSED_METADATA = [
    b"garbage",
    b"\xff\xfe",
    b'{"info": 3}',
    b"[" * 100_000,
    b'{"info": {"features": {"text": {"_type": "Nope"}}}}',
    b'{"info": {"features": {"text": {"dtype": "nope", "_type": "Value"}}}}',
]
HARMLESS_METADATA = [
    b'{"info": {"features": {"text": {"_type": "Image"}}}}',
    b'{"info": {"features": {"other": {"dtype": "string", "_type": "Value"}}}}',
]


@pytest.mark.parametrize("metadata", REFUSED_METADATA + HARMLESS_METADATA, ids=lambda metadata: repr(metadata[:40]))
def test_what_a_parquet_file_says_of_its_columns_is_not_trusted(metadata, tmp_path):
    table = pa.table({"text": ["hello"], "licence": ["MIT"]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "rows.parquet")
    if metadata in REFUSED_METADATA:
        with pytest.raises(DataError, match="cannot be read"):
            read_source(source(tmp_path / "rows.parquet"), tmp_path)
        return
    documents = read_source(source(tmp_path / "rows.parquet"), tmp_path).documents
    assert [(item.document.text, item.document.licence.spdx) for item in documents] == [("hello", "MIT")]


@pytest.mark.parametrize(
    "column",
    [pa.array(["a"], pa.string_view()), pa.array(["a"], pa.large_string()), pa.array(["a"]).dictionary_encode()],
    ids=lambda column: str(column.type),
)
def test_text_in_other_types_of_columns(column, tmp_path):
    pq.write_table(pa.table({"text": column, "licence": ["MIT"]}), tmp_path / "rows.parquet")
    documents = read_source(source(tmp_path / "rows.parquet"), tmp_path).documents
    assert [item.document.text for item in documents] == ["a"]


@pytest.mark.parametrize("values", [[["a"]], [b"a"], [1], [True]], ids=str)
def test_columns_without_text_are_refused(values, tmp_path):
    pq.write_table(pa.table({"text": values, "licence": ["MIT"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="holds"):
        read_source(source(tmp_path / "rows.parquet"), tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["MIT"])], names=["text", "text", "licence"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError):
        read_source(source(tmp_path / "rows.parquet"), tmp_path)


BAD_LINES = {
    b'{"text": ': "unparsable",
    b'"a string"': "unparsable",
    b"[1, 2]": "unparsable",
    b'{"text": 7}': "unparsable",
    b'{"text": "NUL \x00 raw"}': "unparsable",
    b'{"text": ' + b"[" * 100_000: "unparsable",
    b'{"text": "bad \xff byte"}': "undecodable",
    b'{"text": "' + b"x" * 2000 + b'"}': "oversized",
    b'{"more": "' + b"x" * (2 * 2**20) + b'"}': "oversized",
}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_bad_line_is_a_bad_row_and_the_others_are_read(suffix, tmp_path):
    good = b'{"text": "good", "licence": "MIT"}'
    lines = [line for bad in BAD_LINES for line in (good, bad)]
    path = compressed(tmp_path / f"rows.jsonl{suffix}", b"\xef\xbb\xbf" + b"\r\n".join([*lines, b"", b" ", good]))
    read = read_source(source(path, format="jsonl"), tmp_path, ReadingLimits(max_document_bytes=1000))
    broken = [extracted.broken for extracted in read.documents]
    assert broken == [found for rule in BAD_LINES.values() for found in ("", rule)] + [""]
    bad = [extracted.document for extracted in read.documents if extracted.broken]
    assert {document.text for document in bad} == {""}
    assert [document.path for document in bad] == [f"{path.name}#{2 * n + 1}" for n in range(len(BAD_LINES))]
    assert bad[0].raw_sha256 == sha256_bytes(b'{"text": \r')
    assert len({document.document_id for document in bad}) == len(bad)
    assert read.lock["statistics"]["num_rows"] == len(lines) + 1


def test_rows_may_differ_in_their_columns_and_types(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "2020-01-01", "id": 1}, {"text": "b", "id": "x", "more": {"a": [1]}}, {"id": None}]
    path.write_text("\n".join(json.dumps({**row, "licence": "MIT"}) for row in rows))
    read = read_source(source(path), tmp_path)
    assert [extracted.document.text for extracted in read.documents] == ["2020-01-01", "b"]
    assert read.lock["schema"] == {
        "id": ["null", "number", "string"],
        "licence": ["string"],
        "more": ["object"],
        "text": ["string"],
    }
    assert read.lock["statistics"] == {"num_rows": 3, "num_texts": 2, "text_bytes": 11}


NESTED = [
    {"text": "dolma", "metadata": {"license": "https://creativecommons.org/licenses/by/4.0/", "n": 1}},
    {"text": "none", "metadata": {"license": None, "n": 2}},
    {"text": "no metadata", "metadata": None},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json text in parquet"])
def test_a_licence_inside_a_column(kind, tmp_path):
    rows = NESTED if "text" not in kind else [{**row, "metadata": json.dumps(row["metadata"])} for row in NESTED]
    path = WRITERS[kind.split()[-1]](tmp_path / f"rows.{kind.split()[-1]}", rows)
    documents = read_source(source(path, licence_column="metadata.license"), tmp_path).documents
    findings = [extracted.document.licence for extracted in documents]
    assert [finding.spdx for finding in findings] == ["CC-BY-4.0", "NOASSERTION", "NOASSERTION"]
    assert findings[0].declared == NESTED[0]["metadata"]["license"]
    assert findings[1].reason == "the row has no metadata.license"


@pytest.mark.parametrize("kind", WRITERS)
def test_licences_in_a_list_hold_together(kind, tmp_path):
    rows = [{"text": str(number), "licence": value} for number, value in enumerate([["MIT"], ["MIT", "ISC"], []])]
    path = WRITERS[kind](tmp_path / f"rows.{kind}", rows)
    documents = read_source(source(path), tmp_path).documents
    assert [item.document.licence.spdx for item in documents] == ["MIT", "MIT AND ISC", "NOASSERTION"]


def test_the_recipe_may_say_what_licence_words_mean(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "licence": "Public Domain"}])
    plain, told = (
        read_source(source(path, licence_names=names), tmp_path).documents[0].document.licence
        for names in ({}, {"Public Domain": "CC-PDM-1.0"})
    )
    assert (plain.spdx, told.spdx, told.declared) == ("NOASSERTION", "CC-PDM-1.0", "Public Domain")


TEXT = "Первая.\r\nLine two.\n\nLast.".encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("unit", ["file", "line"])
def test_text_files(unit, suffix, tmp_path):
    path = compressed(tmp_path / f"page.txt{suffix}", TEXT)
    stated = {"licence_column": None, "licence": {"spdx": "CC0-1.0", "evidence": "written by us"}}
    documents = read_source(source(path, format="text", text_unit=unit, **stated), tmp_path).documents
    texts = {extracted.document.path: extracted.document.text for extracted in documents}
    name = path.name
    lines = {f"{name}#0": "Первая.", f"{name}#1": "Line two.", f"{name}#3": "Last."}
    assert texts == ({f"{name}#0": "Первая.\nLine two.\n\nLast."} if unit == "file" else lines)


@pytest.mark.parametrize("unit", ["file", "line"])
def test_a_gigantic_text_is_a_recorded_drop(unit, tmp_path):
    path = compressed(tmp_path / "page.txt.gz", b"x" * 3_000_000)
    stated = {"licence_column": None, "licence": {"spdx": "CC0-1.0", "evidence": "written by us"}}
    limits = ReadingLimits(max_document_bytes=1000)
    (extracted,) = read_source(source(path, format="text", text_unit=unit, **stated), tmp_path, limits).documents
    assert extracted.broken == "oversized"
    assert extracted.document.raw_sha256 == sha256_bytes(b"x" * 3_000_000)


@pytest.mark.parametrize("kind", WRITERS)
def test_large_files_are_read_in_parts_and_nothing_is_lost(kind, tmp_path, monkeypatch):
    rows = [{"text": f"row {number} " + "x" * 50, "licence": "MIT"} for number in range(500)]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=60)
    else:
        write_jsonl(path, rows)
    whole = read_source(source(path), tmp_path)
    monkeypatch.setattr(row_parts, "PART_BYTES", 9000)
    reader = DatasetReader(source(path), ReadingContext(ReadingLimits(), tmp_path, tmp_path))
    parts = reader.parts()
    assert len({part.name for part in parts}) == len(parts) > 2
    assert read_source(source(path), tmp_path).documents == whole.documents
    # Each part alone, in another order, after the way through JSON to another process.
    report = PartReport()
    last = SourcePart(**json.loads(json.dumps(parts[-1].as_json())))
    assert list(reader.read(last, report)) == whole.documents[-report.num_files :]
    assert read_source(source(path), tmp_path).lock == whole.lock


def test_a_file_that_vanishes_midway_is_named(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    reader = DatasetReader(source(path), ReadingContext(ReadingLimits(), tmp_path, tmp_path))
    (part,) = reader.parts()
    path.unlink()
    with pytest.raises(DataError, match="cannot be read") as caught:
        list(reader.read(part, PartReport()))
    assert caught.value.where == str(path)


def test_an_empty_file_has_no_documents(tmp_path):
    path = compressed(tmp_path / "rows.jsonl", b"")
    assert read_source(source(path), tmp_path).documents == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_file_is_refused(suffix, tmp_path):
    path = compressed(tmp_path / f"rows.jsonl{suffix}", b'{"text": "a", "licence": "MIT"}\n' * 9)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        read_source(source(path, format="jsonl"), tmp_path)


def test_how_an_obtainable_and_an_unshareable_source_are_had(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    sold = {"data_class": "obtainable", "obtained_from": "their shop", "vendor": "A. Publisher", "fee": "EUR 400 once"}
    lock = read_source(source(path, **sold), tmp_path).lock
    assert {key: lock[key] for key in ("osaid_class", "obtain", "vendor", "fee")} == {
        "osaid_class": "obtainable", "obtain": "their shop", "vendor": "A. Publisher", "fee": "EUR 400 once",
    }  # fmt: skip
    lock = read_source(source(path, data_class="unshareable", reason="personal data"), tmp_path).lock
    assert (lock["osaid_class"], lock["reason"]) == ("unshareable", "personal data")
    assert lock["schema"]["text"] == ["null", "string"]
    assert lock["statistics"]["num_rows"] == 5


@pytest.mark.parametrize(("column", "message"), [("body", "no column 'body'"), ("id", "holds")])
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
        {"vendor": "A. Publisher"},
        {"reason": "contract"},
        {"data_class": "unshareable", "reason": "we would rather not"},
        {"format": "text"},
        {"text_unit": "line"},
        {"licence_names": {"Public Domain": "no such licence"}},
    ],
)
def test_recipes_that_pin_too_little_are_refused(changes, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(ValidationError):
        source(path, **changes)
