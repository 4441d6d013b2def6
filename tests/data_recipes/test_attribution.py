"""The licences of a corpus and the credits for exactly the documents that were kept."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_recipes.attribution import attribution_text, read_licences
from data_recipes.document import Document, LicenceFinding
from data_recipes.documents import DOCUMENTS_SCHEMA, Decision, document_row
from data_recipes.filters import measure


def _row(licence: str, holder: str, source: str = "alpha", rule: str = "") -> dict[str, Any]:
    return {
        "document_id": "a" * 64,
        "source": source,
        "decision": "dropped" if rule else "kept",
        "rule": rule,
        "licence_spdx": licence,
        "licence_chosen": "" if rule == "licence" else licence.split(" OR ")[0],
        "size_bytes": 10,
        "num_tokens": 0 if rule else 3,
        "copyright": [holder] if holder else [],
    }


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [
        _row("MIT", "Copyright (c) 2020 Ada"),
        _row("MIT OR GPL-3.0-only", "Copyright (c) 2021 Бета", "beta"),
        _row("MIT", "", "beta"),
        _row("CC-BY-SA-4.0 AND MIT", "Copyright Gamma"),
        _row("Artistic-2.0", "Copyright Delta"),
        _row("GPL-3.0-only", "Copyright Never", rule="licence"),
        _row("MIT", "Copyright Too Short", rule="few words"),
    ]
    pq.write_table(pa.Table.from_pylist(rows[:3]), tmp_path / "documents-00000.parquet")
    pq.write_table(pa.Table.from_pylist(rows[3:]), tmp_path / "documents-00001.parquet")
    return tmp_path


def test_the_report_counts_kept_documents_by_the_licence_that_was_chosen(documents):
    found = read_licences(documents).as_json()
    assert [row["licence"] for row in found["licences"]] == ["MIT", "Artistic-2.0", "CC-BY-SA-4.0 AND MIT"]
    mit, artistic, both = found["licences"]
    assert (mit["num_documents"], mit["num_tokens"], mit["num_without_credit"]) == (3, 9, 1)
    assert mit["sources"] == {"alpha": 1, "beta": 2}
    assert artistic["obligations"] is None
    assert both["obligations"] == ["attribution", "notice", "share-alike"]
    assert found["refused"] == {"GPL-3.0-only": 1}


def test_the_attribution_names_the_holders_of_kept_documents_and_no_others(documents):
    lock = {"alpha": {"version": "1.0", "obtain": "pip download alpha==1.0"}}
    text = attribution_text("tiny 0.1", read_licences(documents), lock)
    for holder in ("Copyright (c) 2020 Ada", "Copyright (c) 2021 Бета", "Copyright Gamma", "Copyright Delta"):
        assert holder in text
    assert "Never" not in text
    assert "Too Short" not in text
    assert "alpha 1.0 (obtained from: pip download alpha==1.0): 1 document" in text
    assert "share-alike: offer what is derived under the same terms" in text
    assert "Artistic-2.0: not in the table" in text
    assert "Artistic-2.0 asks" not in text


def test_files_of_conversations_are_credited_with_what_is_stated_for_them(documents):
    stated = {
        "type": "chat",
        "num_rows": 3,
        "obtain": "their site",
        "licence": {"spdx": "MIT", "declared": "their card"},
    }
    by_row = {"type": "chat", "num_rows": 2, "licence": {"column": "license"}}
    report = read_licences(documents)
    text = attribution_text("tiny", report, {"talks": stated, "pairs": by_row})
    told = text.split("== conversations and preference pairs from files\n")[1]
    pairs, talks = told.split("-- ")[1:]
    assert pairs.startswith("pairs: 2 rows\nThe licence of each is in the column `licence`")
    assert talks.startswith("talks (obtained from: their site): 3 rows\nMIT, as said by: their card\nMIT asks: ")
    assert "conversations" not in attribution_text("tiny", report, {})


def test_notice_files_go_with_what_is_used_under_the_licence_that_asks_for_them(tmp_path):
    rows = [_row("Apache-2.0", "Copyright Ada"), _row("MIT", "Copyright Bob", "beta")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents-00000.parquet")
    notice = {"path": "NOTICE", "sha256": "0" * 64, "text": "This product includes software\nof Гамма."}
    lock = {"alpha": {"notices": [notice]}, "beta": {"notices": [{**notice, "text": "not asked for"}]}}
    text = attribution_text("t", read_licences(tmp_path), lock)
    assert "NOTICE of this source says:\n    This product includes software\n    of Гамма." in text
    assert "not asked for" not in text


def test_the_same_rows_in_another_order_give_the_same_attribution(documents, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    tables = [pq.read_table(path) for path in sorted(documents.glob("*.parquet"))]
    pq.write_table(pa.concat_tables(tables[::-1]), other / "documents-00000.parquet")
    assert attribution_text("t", read_licences(documents), {}) == attribution_text("t", read_licences(other), {})


def test_the_row_of_a_document_says_what_its_licence_asks():
    finding = LicenceFinding("MIT OR GPL-3.0-only", "MIT", "file-header", "a.md:1", "0" * 64, "2026-11-25")
    document = Document("alpha", "d" * 64, "a.md", "prose", "text", "0" * 64, "1" * 64, finding)
    asked = {
        chosen: document_row(document, measure("text"), Decision(), chosen, "train")["obligations"]
        for chosen in ("MIT", "CC0-1.0", "Artistic-2.0", "")
    }
    assert asked == {"MIT": ("attribution", "notice"), "CC0-1.0": (), "Artistic-2.0": None, "": None}
    rows = [{**document_row(document, measure("text"), Decision(), chosen, "train")} for chosen in asked]
    table = pa.Table.from_pylist(rows, schema=DOCUMENTS_SCHEMA)
    assert table["obligations"].to_pylist() == [["attribution", "notice"], [], None, None]
