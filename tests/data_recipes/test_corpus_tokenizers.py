"""The corpus stage with a faster tokenizer engine, and with a tokenizer made elsewhere."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpus_fixtures import build, prose, tiny_corpus_values
from in_place_fixtures import rows_source, tokens_source, write_rows, write_tokens
from tokenizer_fixtures import tokenizer_json
from tokenizers import Tokenizer

import data_recipes.train_step
from data_recipes.settings import TAKEN_TOKENIZER
from data_recipes.tokenizer_engine import COMPILED_NAME, LIBRARY_NAME
from data_recipes.tokenizer_proof import choose_engine
from data_recipes.windows import TokenWindows
from provenance.artifacts import Artifact
from provenance.canonical import read_json
from provenance.digests import sha256_file
from provenance.errors import DataError, SourceError
from provenance.ledger import read_chain


def engine_note(corpus: Artifact) -> dict[str, Any]:
    (note,) = [record for record in read_chain(corpus.path / "journal.jsonl") if record["kind"] == "tokenizer engine"]
    return note


def test_a_faster_engine_is_noted_and_changes_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = tiny_corpus_values(tmp_path)
    slow = build(tmp_path, values, "slow")
    monkeypatch.setattr(data_recipes.train_step, "choose_engine", partial(choose_engine, min_corpus_bytes=1))
    fast = build(tmp_path, values, "fast")
    assert fast.content_digest == slow.content_digest
    assert engine_note(slow)["engine"] == LIBRARY_NAME
    note = engine_note(fast)
    assert (note["engine"], note["reason"]) == (COMPILED_NAME, "")
    kept = sum(source["num_documents"] for split in ("train", "heldout") for source in sources(fast, split))
    assert note["num_documents"] == kept


def sources(corpus: Artifact, split: str) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = read_json(corpus.path / "tokens" / "tokens.json")["splits"][split]["sources"]
    return described


def test_a_corpus_takes_the_tokenizer_of_another_and_drops_what_spells_its_control_tokens(tmp_path: Path) -> None:
    values = tiny_corpus_values(tmp_path)
    first = build(tmp_path, values, "first")
    text = (first.path / "tokenizer" / "tokenizer.json").read_text().replace('"<|user|>"', '"window small"')
    (tmp_path / "tokenizer.json").write_text(text)
    pin = {"path": "tokenizer.json", "sha256": sha256_file(tmp_path / "tokenizer.json"), "obtained_from": "a test"}
    values["tokenizer"] = {"file": {**pin, "licence": {"spdx": "MIT", "evidence": "its card"}}, "vocab_size": 321}
    second = build(tmp_path, values, "second")
    assert TokenWindows(second.path, "train", 8).vocab_size == 321
    dropped = read_json(second.path / "corpus.json")["sources"]
    assert sum(source["dropped_by_rule"].get("max_num_special_tokens", 0) for source in dropped) > 0
    steps = read_json(second.path / "corpus.json")["steps"]
    (taken,) = [step for step in steps if step["name"] == "tokenizer training"]
    assert taken["parameters"]["file"]["sha256"] == pin["sha256"]
    assert (second.path / TAKEN_TOKENIZER).read_text() == text
    lock = read_json(second.path / "sources.lock")["tokenizer"]
    assert lock["licence"] == {"spdx": "MIT", "declared": "its card"}
    assert (lock["sha256"], lock["size_bytes"], lock["obtain"]) == (pin["sha256"], len(text.encode()), "a test")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match="no file"):
        build(tmp_path, values, "third")
    values["execution"]["tokenizer_file"] = str(second.path / TAKEN_TOKENIZER)
    assert build(tmp_path, values, "third").content_digest == second.content_digest


@pytest.mark.parametrize("kind", ["byte fallback", "word pieces"])
def test_a_corpus_says_what_a_tokenizer_of_another_kind_keeps_of_its_texts(tmp_path: Path, kind: str) -> None:
    values = tiny_corpus_values(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(kind))
    given = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pin = {"path": "tokenizer.json", "sha256": sha256_file(tmp_path / "tokenizer.json")}
    values["tokenizer"] = {"file": pin, "vocab_size": given.get_vocab_size() + 5}
    corpus = build(tmp_path, values, "store")
    texts = [row["text"] for split in ("train", "heldout") for row in kept_texts(corpus, split)]
    encoded = [given.encode(text, add_special_tokens=False) for text in texts]
    found = read_json(corpus.path / "corpus.json")["tokenizer"]
    unknown = given.token_to_id("[UNK]" if kind == "word pieces" else "<unk>")
    num_unknown = sum(encoding.ids.count(unknown) for encoding in encoded)
    assert found["num_unknown_tokens"] == num_unknown
    assert (num_unknown > 0) == (kind == "word pieces"), "the Cyrillic project is not in its vocabulary"
    num_equal = sum(
        given.decode(one.ids, skip_special_tokens=False) == text for one, text in zip(encoded, texts, strict=True)
    )
    assert num_equal == (0 if kind == "word pieces" else len(texts))
    assert found["round_trip"] == {
        "num_documents": len(texts),
        "num_equal": num_equal,
        "size_bytes": sum(len(text.encode()) for text in texts),
        "num_tokens": sum(len(encoding.ids) for encoding in encoded),
    }
    windows = TokenWindows(corpus.path, "train", 8)
    end = Tokenizer.from_file(str(corpus.path / "tokenizer" / "tokenizer.json")).token_to_id("<|endoftext|>")
    documents = [ids.tolist() for source in range(len(windows.sources)) for ids in windows.documents(source)]
    expected = [[*given.encode(row["text"], add_special_tokens=False).ids, end] for row in kept_texts(corpus, "train")]
    assert sorted(documents) == sorted(expected)


def test_unknown_tokens_of_files_in_place_count_as_well(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("word pieces"))
    given = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    unknown, end = given.token_to_id("[UNK]"), given.token_to_id("[SEP]")
    ids = [given.encode(text, add_special_tokens=False).ids for text in (prose(1), "漢字 " + prose(2), prose(3))]
    write_tokens(tmp_path / "theirs.npy", [[*document, end] for document in ids[:2]])
    write_rows(tmp_path / "held.jsonl", [prose(3)])
    sources = [
        tokens_source(tmp_path, "theirs", [("theirs.npy", None)], eos_id=end),
        rows_source(tmp_path, "held", "held.jsonl", split="heldout"),
    ]
    file = {"path": "tokenizer.json", "sha256": sha256_file(tmp_path / "tokenizer.json")}
    size = given.get_vocab_size() + 4
    taken = {"file": file, "vocab_size": size, "special_tokens": {"end_of_text": "[SEP]"}}
    corpus = build(tmp_path, tiny_corpus_values(tmp_path, sources=sources, tokenizer=taken), "store")
    in_place = sum(document.count(unknown) for document in ids[:2])
    assert in_place > 0
    found = read_json(corpus.path / "corpus.json")["tokenizer"]["num_unknown_tokens"]
    assert found == in_place + ids[2].count(unknown)


def kept_texts(corpus: Artifact, split: str) -> list[dict[str, Any]]:
    paths = sorted((corpus.path / "text").rglob(f"{split}*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_tokenizer_that_cannot_be_taken_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    values = tiny_corpus_values(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("byte fallback"))
    pin = {"path": "tokenizer.json", "sha256": sha256_file(tmp_path / "tokenizer.json")}
    values["tokenizer"] = {"file": pin, "vocab_size": 300}
    with pytest.raises(DataError, match="special tokens included"):
        build(tmp_path, values, "store")
