"""`openwright data ...`, run in this process on small corpora."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openwright import cli


def _row(licence: str, rule: str = "") -> dict[str, Any]:
    return {
        "document_id": "a" * 64,
        "source": "alpha",
        "decision": "dropped" if rule else "kept",
        "rule": rule,
        "licence_spdx": licence,
        "licence_chosen": "" if rule else licence,
        "size_bytes": 10,
        "num_tokens": 0 if rule else 3,
        "copyright": ["Copyright (c) 2020 Ада"],
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As much of a bundle as the licences are read from."""
    documents = tmp_path / "bundle" / "dataset" / "documents"
    documents.mkdir(parents=True)
    rows = [_row("MIT"), _row("CC-BY-SA-4.0"), _row("MIT"), _row("GPL-3.0-only", rule="licence")]
    pq.write_table(pa.Table.from_pylist(rows), documents / "documents-00000.parquet")
    (documents.parent / "corpus.json").write_text("{}")
    (documents.parent / "sources.lock").write_text('{"sources": [{"name": "alpha", "version": "1.0"}]}')
    return tmp_path / "bundle"


def test_licences_prints_a_table_of_what_was_kept_and_what_it_asks(bundle, capsys):
    assert cli.invoke(["data", "licences", "--in", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["licence", "MIT", "CC-BY-SA-4.0"]
    assert lines[2].endswith("attribution, notice, share-alike")
    assert "GPL-3.0-only (1)" in lines[3]


def test_licences_writes_credits_and_prints_json(bundle, capsys, tmp_path):
    target = tmp_path / "ATTRIBUTION.txt"
    # The directory of a corpus does as well as that of a bundle.
    code = cli.invoke(["data", "licences", "--in", str(bundle / "dataset"), "--attribution", str(target), "--json"])
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "openwright-licences/1"
    assert document["licences"][0]["num_documents"] == 2
    assert "alpha 1.0: 2 documents\nCopyright (c) 2020 Ада" in target.read_text()


@pytest.mark.parametrize("damage", ["cut", "page"])
def test_a_damaged_table_is_said_of_its_directory(bundle, capsys, damage):
    (table,) = bundle.rglob("*.parquet")
    data = table.read_bytes()
    table.write_bytes(data[:200] if damage == "cut" else data[:4] + b"\xff" * 60 + data[64:])
    assert cli.invoke(["data", "licences", "--in", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert f"{bundle}: a table that cannot be read (" in error
    assert "bug" not in error


def test_what_is_no_corpus_is_said_so(tmp_path, capsys):
    assert cli.invoke(["data", "licences", "--in", str(tmp_path)]) != 0
    assert "neither a corpus nor a bundle" in capsys.readouterr().err


def test_the_model_directory_stands_for_its_bundle_and_the_hub_is_pointed_to_verify(bundle, capsys):
    (bundle / "model").mkdir()
    assert cli.invoke(["data", "licences", "--in", str(bundle / "model")]) == 0
    capsys.readouterr()
    assert cli.invoke(["data", "licences", "--in", "hf:org/tiny"]) == 2
    assert "next: openwright verify hf:org/tiny" in capsys.readouterr().err
