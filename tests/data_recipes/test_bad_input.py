"""Bad input through the whole stage: a counted and recorded drop, or an error that leaves nothing half made."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import prose, tiny_context, tiny_corpus_values

import data_recipes.corpus
from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from data_recipes.steps import run_task
from provenance.digests import sha256_file
from provenance.errors import DataError, OpenwrightError

LIMIT = 20_000
GOOD = [json.dumps({"text": prose(900 + number)}).encode() for number in range(3)]


def dataset(path, kind):
    return {
        "type": "dataset",
        "name": "rows",
        "format": kind,
        "files": [{"path": path.name, "sha256": sha256_file(path)}],
        "licence": {"spdx": "MIT", "evidence": "as the README says"},
        "split": "train",
        "as_of": "2026-11-24",
    }


def build(tmp_path, path, kind="jsonl"):
    values = tiny_corpus_values(tmp_path, limits={"max_document_bytes": LIMIT}, num_shards=1)
    values["sources"].append(dataset(path, kind))
    return build_corpus(CorpusConfig.model_validate(values), tiny_context(tmp_path / "store"))


def test_nothing_is_silently_lost(tmp_path):
    text = prose(910)
    lines = [
        GOOD[0],
        b'{"text": "cut sh',
        b'["no object"]',
        b'{"text": 7}',
        b'{"other": "no text"}',
        b'{"text": "caf\xe9 in Latin-1 ' + b"a " * 60 + b'"}',
        json.dumps({"text": text.replace(" ", " \0", 5)}).encode(),
        json.dumps({"text": "x" * (LIMIT + 1)}).encode(),
        json.dumps({"text": "y" * 40 * LIMIT}).encode(),
        GOOD[0],
        b"",
        GOOD[1],
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    made = build(tmp_path, path)
    table = pq.read_table(made.path / "documents" / "documents-00000.parquet").to_pylist()
    rows = {row["path"]: row for row in table if row["source"] == "rows"}
    rules = {place.removeprefix("rows.jsonl#"): row["rule"] for place, row in rows.items()}
    summary = json.loads((made.path / "corpus.json").read_text())
    (source,) = [source for source in summary["sources"] if source["name"] == "rows"]
    assert source["num_files"] == len(rows) + sum(source["files_skipped"].values()) == sum(map(bool, lines))
    assert {rules["0"], rules["9"]} == {"", "duplicate"}
    assert (rules["6"], rules["11"]) == ("", "")
    assert (rules["7"], rules["8"]) == ("oversized", "oversized")
    assert rules["5"] == "undecodable"
    assert [rules[number] for number in "123"] == ["unparsable"] * 3
    assert source["files_skipped"] == {"row without text": 1}
    texts = pq.read_table(made.path / "text" / "train-00000.parquet").to_pylist()
    (kept,) = [row["text"] for row in texts if row["path"] == "rows.jsonl#6"]
    assert kept == text.strip()


def write_gzip(path):
    path.write_bytes(gzip.compress(b"\n".join(GOOD))[:-20])


def write_parquet(path):
    pq.write_table(pa.table({"text": [json.loads(line)["text"] for line in GOOD]}), path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "write", "kind"), [("rows.jsonl.gz", write_gzip, "jsonl"), ("rows.parquet", write_parquet, "parquet")]
)
def test_a_truncated_file_is_an_error_and_no_corpus(name, write, kind, tmp_path):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match="cannot be read") as caught:
        build(tmp_path, path, kind)
    assert name in caught.value.where
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_source_that_vanishes_midway_is_named_and_the_rest_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(GOOD))
    done = []

    def vanishing(root, step, number):
        path.unlink(missing_ok=True)
        run_task(root, step, number)
        done.append((step, number))

    with monkeypatch.context() as patch:
        patch.setattr(data_recipes.corpus, "run_task", vanishing)
        with pytest.raises(OpenwrightError, match="'rows'"):
            build(tmp_path, path)
    assert not list((tmp_path / "store").rglob("manifest.json"))
    path.write_bytes(b"\n".join(GOOD))
    again = []

    def counted(root, step, number):
        again.append((step, number))
        run_task(root, step, number)

    monkeypatch.setattr(data_recipes.corpus, "run_task", counted)
    build(tmp_path, path)
    assert done
    assert not set(done) & set(again)
