"""Where a corpus holds documents that are to be forgotten, against the tokens themselves."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import tiny_context, tiny_corpus_config
from tokenizers import Tokenizer

from data_recipes.corpus import build_corpus
from data_recipes.tombstones import Tombstone, held_documents, read_tombstones, token_ranges, write_tombstones
from provenance.errors import DataError


@pytest.fixture(scope="module", params=["none", "best-fit"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpus")
    config = tiny_corpus_config(place, conversations={"window_tokens": 127, "packing": request.param})
    return build_corpus(config, tiny_context(place / "store")).path


def _text(corpus: Path, path: str, begin: int, end: int) -> str:
    tokens = np.fromfile(corpus / path, "<u2")[begin:end]
    return Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json")).decode(tokens.tolist())


def _tombstone(document_id: str, text_sha256: str = "0" * 64) -> Tombstone:
    return Tombstone(document_id, text_sha256, "2026-11-25", "asked by its author")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_document_lies_where_it_is_said_to_lie(corpus, split):
    rows = pq.read_table(corpus / "text" / f"{split}-00000.parquet").to_pylist()
    held = held_documents(corpus, [_tombstone(row["document_id"]) for row in rows])
    assert [document.document_id for document in held] == sorted(row["document_id"] for row in rows)
    ranges = token_ranges(corpus, held)
    for row in rows:
        (part,) = [found for found in ranges[row["document_id"]] if found.split == split]
        assert _text(corpus, part.path, part.begin, part.end) == row["text"]


def test_conversations_made_from_a_document_are_found_with_it(corpus):
    talks = pq.read_table(corpus / "conversations" / "train-00000.parquet").to_pylist()
    document_id = talks[0]["document_id"]
    ranges = token_ranges(corpus, held_documents(corpus, [_tombstone(document_id)]))
    texts = [_text(corpus, part.path, part.begin, part.end) for part in ranges[document_id] if part.split == "sft"]
    expected = [talk for talk in talks if talk["document_id"] == document_id and talk["row_key"]]
    assert len(texts) == len({talk["row_key"] for talk in expected}) > 0
    for talk in expected:
        assert any(talk["messages"][1]["content"] in text for text in texts)


def test_an_equal_text_under_another_id_is_named_by_its_digest(corpus):
    row = pq.read_table(corpus / "documents" / "documents-00000.parquet").to_pylist()[3]
    (held,) = held_documents(corpus, [_tombstone("f" * 64, row["text_sha256"])])
    assert held.document_id == row["document_id"]
    assert held_documents(corpus, [_tombstone("f" * 64)]) == []


def test_tombstones_are_only_added(tmp_path):
    path = tmp_path / "tombstones.json"
    assert read_tombstones(path) == []
    write_tombstones(path, [_tombstone("b" * 64)])
    write_tombstones(path, [_tombstone("a" * 64), Tombstone("b" * 64, "1" * 64, "2030-01-01", "again")])
    found = read_tombstones(path)
    assert [tombstone.document_id[0] for tombstone in found] == ["a", "b"]
    assert found[1].date == "2026-11-25"


@pytest.mark.parametrize(
    "text", ['{"format": "openwright-tombstones/2"}', "[]", '{"format": "openwright-tombstones/1"}']
)
def test_a_file_that_holds_no_tombstones_is_refused(tmp_path, text):
    path = tmp_path / "tombstones.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read_tombstones(path)


def test_conversations_that_do_not_say_their_rows_are_refused_if_any_became_none(corpus, tmp_path):
    talks = pq.read_table(corpus / "conversations" / "train-00000.parquet")
    became_rows = talks.filter(pc.not_equal(talks["row_key"], ""))
    assert 0 < became_rows.num_rows < talks.num_rows
    for name in ("documents", "tokens"):
        (tmp_path / name).symlink_to(corpus / name)
    (tmp_path / "conversations").mkdir()
    if len(set(became_rows["row_key"].to_pylist())) < became_rows.num_rows:
        return  # corpora from before rows had keys had no shared rows either
    held = held_documents(tmp_path, [_tombstone(became_rows["document_id"][0].as_py())])
    pq.write_table(became_rows.drop_columns(["row_key"]), tmp_path / "conversations" / "train-00000.parquet")
    assert token_ranges(tmp_path, held) == token_ranges(corpus, held)
    pq.write_table(talks.drop_columns(["row_key"]), tmp_path / "conversations" / "train-00000.parquet")
    with pytest.raises(DataError, match="rows of"):
        token_ranges(tmp_path, held)
