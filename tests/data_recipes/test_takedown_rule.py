"""A corpus that is built without what was taken down: no copy of the text takes its place."""

import pyarrow.parquet as pq
from corpus_fixtures import project_files, pypi_source, tiny_context, tiny_corpus_config, tiny_corpus_values

from data_recipes.corpus import build_corpus
from data_recipes.decisions import DUPLICATE, FORGOTTEN
from provenance.canonical import read_json


def _rows(place, **changes):
    corpus = build_corpus(tiny_corpus_config(place, **changes), tiny_context(place / "store")).path
    return corpus, [
        row for path in sorted(corpus.glob("documents/documents-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_a_forgotten_document_and_its_copies_are_dropped_and_keep_their_rows(tmp_path):
    sources = tiny_corpus_values(tmp_path)["sources"]
    sources.append(pypi_source(tmp_path / "cache", "delta", project_files(1)))  # the same texts as those of alpha
    _, before = _rows(tmp_path, sources=sources)
    kept = next(row for row in before if row["decision"] == "kept" and len(row["cluster_sources"]) > 1)
    copies = [row for row in before if row["text_sha256"] == kept["text_sha256"]]
    assert [row["rule"] for row in copies if row is not kept] == [DUPLICATE]

    named = {"document_id": kept["document_id"], "text_sha256": kept["text_sha256"]}
    corpus, after = _rows(tmp_path, sources=sources, forget=[named])
    assert {row["document_id"] for row in after} == {row["document_id"] for row in before}
    gone = [row for row in after if row["text_sha256"] == kept["text_sha256"]]
    assert [row["rule"] for row in gone] == [FORGOTTEN, FORGOTTEN]
    num_texts = sum(pq.read_metadata(path).num_rows for path in corpus.glob("text/train-*.parquet"))
    assert num_texts == sum(row["split"] == "train" for row in before) - 1
    step = next(step for step in read_json(corpus / "corpus.json")["steps"] if step["name"] == "takedown")
    assert (step["dropped"], step["parameters"]) == ({FORGOTTEN: 2}, [named])
