"""Conversations and preference pairs of a recipe, through the whole stage."""

import json

import datasets
from corpus_fixtures import tiny_context, tiny_corpus_config

from data_recipes.corpus import build_corpus
from data_recipes.windows import TokenWindows
from provenance.canonical import read_json
from provenance.digests import sha256_file


def test_conversations_and_pairs_from_files_become_splits_of_their_own(tmp_path):
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}]
    files = {"talks": {"messages": turns}, "pairs": {"prompt": "ask", "chosen": "good", "rejected": "bad"}}
    sources = []
    for name, row in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        sources.append(
            {
                "name": name,
                "kind": "messages" if name == "talks" else "preference",
                "format": "jsonl",
                "files": [{"path": path.name, "sha256": sha256_file(path)}],
                "licence": {"spdx": "MIT", "evidence": "stated"},
                "split": "train",
                "as_of": "2026-11-25",
            }
        )
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
