"""Conversations and preference pairs of a recipe, through the whole stage."""

import datasets
from corpus_fixtures import chat_source, tiny_context, tiny_corpus_config

from data_recipes.corpus import build_corpus
from data_recipes.windows import TokenWindows
from provenance.canonical import read_json


def test_conversations_and_pairs_from_files_become_splits_of_their_own(tmp_path):
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}]
    sources = [
        chat_source(tmp_path, "talks", "messages", [{"messages": turns}]),
        chat_source(tmp_path, "pairs", "preference", [{"prompt": "ask", "chosen": "good", "rejected": "bad"}]),
    ]
    config = tiny_corpus_config(tmp_path, chats={"window_tokens": 63, "sources": sources})
    corpus = build_corpus(config, tiny_context(tmp_path / "store")).path
    for split, width in (("chat", 64), ("preference", 128)):
        windows = TokenWindows(corpus, split, width - 1, verify=True)
        assert windows.sources[0].num_windows == 1
        assert windows.read(0, 0)[1].sum() > 0
    assert [entry["name"] for entry in read_json(corpus / "sources.lock")["sources"]][-2:] == ["pairs", "talks"]
    assert read_json(corpus / "corpus.json")["chats"]["splits"]["preference"]["num_rows"] == 1
    pairs = datasets.load_dataset(str(corpus / "preferences"), cache_dir=str(tmp_path / "cache"))
    assert pairs["train"][0]["chosen"] == [{"role": "assistant", "content": "good"}]
