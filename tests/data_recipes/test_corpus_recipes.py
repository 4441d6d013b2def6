"""Recipes of whole corpora: equal and other ones, those that are refused, and those that are shipped."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from corpus_fixtures import build, module, prose, pypi_source, tiny_context, tiny_corpus_config, tiny_corpus_values

from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from provenance.artifacts import load_artifact
from provenance.config import load_config
from provenance.digests import sha256_file
from provenance.errors import ConfigError, DataError, SourceError

ROOT = Path(__file__).resolve().parent.parent.parent


def test_an_equal_recipe_is_not_built_twice(tmp_path, monkeypatch):
    values = tiny_corpus_values(tmp_path)
    first = build(tmp_path, values)
    monkeypatch.setattr("data_recipes.corpus._build", lambda config, work: pytest.fail("was built again"))
    values["execution"]["num_workers"] = 5
    assert build(tmp_path, values) == first
    load_artifact(first.path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_shards": 3},
        {"tokenizer": {"vocab_size": 300}},
        {"quality": {"min_num_words": 200}},
        {"conversations": {"window_tokens": 100}},
    ],
)
def test_another_recipe_gives_another_corpus(change, tmp_path, monkeypatch):
    values = tiny_corpus_values(tmp_path)
    monkeypatch.setattr("data_recipes.corpus._build", lambda config, work: (work / "x").write_text("x"))
    assert build(tmp_path, values).fingerprint != build(tmp_path, values | change).fingerprint


def test_a_source_without_documents_is_named(tmp_path):
    values = tiny_corpus_values(tmp_path)
    values["sources"].append(pypi_source(tmp_path / "cache", "empty", {"empty.c": b"int x;"}))
    with pytest.raises(DataError, match="'empty' holds no document"):
        build(tmp_path, values)


def test_a_policy_that_drops_everything_is_named(tmp_path):
    values = tiny_corpus_values(tmp_path, policy={"allow": ["ISC"]})
    with pytest.raises(DataError, match=r"all 10 documents of split 'heldout' were dropped, 10 by rule 'licence'"):
        build(tmp_path, values)


def test_the_same_archive_under_two_names_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": prose(1)}) + "\n")
    stated = {"spdx": "MIT", "evidence": "as the README says"}
    entry = {
        "type": "dataset",
        "format": "jsonl",
        "files": [{"path": path.name, "sha256": sha256_file(path)}],
        "licence": stated,
        "split": "train",
        "as_of": "2026-11-24",
    }
    values = tiny_corpus_values(tmp_path, sources=[entry | {"name": "one"}, entry | {"name": "two"}])
    with pytest.raises(DataError, match="'one' and 'two' hold the same file"):
        build(tmp_path, values)


def test_an_archive_of_another_digest_is_refused(tmp_path):
    values = tiny_corpus_values(tmp_path)
    wrong = values["sources"][0] | {"sha256": "0" * 64}
    values["sources"][0] = wrong
    values["execution"]["index_url"] = "http://127.0.0.1:9/simple/"
    with pytest.raises(SourceError):
        build(tmp_path, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["sources"].append(values["sources"][0]), "'alpha' is used twice"),
        (lambda values: values["sources"].clear(), "sources"),
        (lambda values: values["policy"].update(allow=["My Own Licence"]), "My Own Licence"),
        (lambda values: values["policy"].update(allow=[]), "allow"),
        (lambda values: values.update(qualty={}), "quality"),
        (lambda values: values["tokenizer"].update(vocab_size=100), "vocab_size"),
        (lambda values: values["sources"][0].update(sha256="latest"), "sha256"),
        (lambda values: [source.update(split="heldout") for source in values["sources"]], "split: train"),
    ],
)
def test_wrong_recipes_are_refused_with_file_and_line(change, message, tmp_path):
    values = tiny_corpus_values(tmp_path)
    values["execution"] = {"num_workers": 1, "cache_dir": str(tmp_path / "cache")}
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_config(path, CorpusConfig).sources[0].name == "alpha"
    change(values)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, CorpusConfig)
    assert "corpus.yaml:" in caught.value.where


@pytest.mark.parametrize("name", ["quickstart", "small"])
def test_shipped_recipes_load(name):
    config = load_config(ROOT / "configs" / name / "corpus.yaml", CorpusConfig)
    splits = Counter(source.split for source in config.sources)
    assert splits["train"] >= 8
    assert splits["heldout"] >= 1


def test_a_corpus_without_held_out_projects_is_allowed(tmp_path):
    source = pypi_source(tmp_path / "cache", "solo", {f"solo/m{n}.py": module(n).encode() for n in range(9)})
    made = build_corpus(tiny_corpus_config(tmp_path, sources=[source]), tiny_context(tmp_path / "store"))
    splits = json.loads((made.path / "tokens/tokens.json").read_text())["splits"]
    assert set(splits) == {"train", "sft"}
