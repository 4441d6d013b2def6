"""Taking down a conversation or a pair that came from a file."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import chat_source, tiny_context, tiny_corpus_config

from data_recipes.corpus import build_corpus
from data_recipes.tombstones import Tombstone, held_documents, token_ranges
from provenance.artifacts import load_artifact
from provenance.canonical import read_json
from release.shipping import copy_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpus")
    talks = [{"prompt": f"ask {n}", "completion": f"answer {n}"} for n in range(9)]
    pairs = [{"prompt": f"ask {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
    sources = [
        chat_source(place, "talks", "prompt-completion", talks),
        chat_source(place, "pairs", "preference", pairs),
    ]
    chats = {"window_tokens": 127, "packing": "best-fit", "sources": sources}
    return build_corpus(tiny_corpus_config(place, chats=chats), tiny_context(place / "store")).path


@pytest.mark.parametrize(("folder", "split"), [("chats", "chat"), ("preferences", "preference")])
def test_its_text_and_the_row_that_it_lies_in_are_left_out(corpus, tmp_path, folder, split):
    table = pq.read_table(corpus / folder / "train-00000.parquet").to_pylist()
    gone = table[1]
    tombstone = Tombstone(gone["chat_id"], gone["chat_id"], "2026-11-25", "asked for")
    (held,) = held_documents(corpus, [tombstone])
    assert (held.source, held.split) == (gone["source"], split)
    (part,) = token_ranges(corpus, [held])[gone["chat_id"]]
    width = read_json(corpus / "tokens" / "tokens.json")["splits"][split]["width"]
    assert (part.split, part.end - part.begin) == (split, width)

    artifact = load_artifact(corpus, check_files=False)
    paths = [entry.path for entry in (*artifact.results, *artifact.observations)]
    copy_corpus(corpus, tmp_path, paths, {}, [tombstone])
    shipped = pq.read_table(tmp_path / folder / "train-shipped-00000.parquet").to_pylist()
    assert [row["chat_id"] for row in shipped] == [row["chat_id"] for row in table if row is not gone]
    before = np.fromfile(corpus / part.path, "<u2")
    after = np.fromfile(tmp_path / "redacted" / part.path, "<u2")
    assert len(set(after[part.begin : part.end].tolist())) == 1
    assert len(set(before[part.begin : part.end].tolist())) > 1
    assert (np.delete(before, np.s_[part.begin : part.end]) == np.delete(after, np.s_[part.begin : part.end])).all()
    assert not (tmp_path / part.path).exists()


def test_the_row_is_the_one_that_holds_it(corpus):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    for row in pq.read_table(corpus / "chats" / "train-00000.parquet").to_pylist():
        held = held_documents(corpus, [Tombstone(row["chat_id"], "0" * 64, "2026-11-25", "x")])
        (part,) = token_ranges(corpus, held)[row["chat_id"]]
        text = tokenizer.decode(np.fromfile(corpus / part.path, "<u2")[part.begin : part.end].tolist())
        assert row["completion"][0]["content"] in text
