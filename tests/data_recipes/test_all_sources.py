"""One corpus of every type of source, read by two processes: documents, licences and an entry in the lock for each."""

import gzip
import json

import pyarrow.parquet as pq
import pytest
from corpus_fixtures import AS_OF, project_files, prose, pypi_source, tiny_context, tiny_corpus_config
from debian_fixtures import debian_archive, package, source_values
from huggingface_hub import constants
from loopback_hub import Repository, loopback_hub
from test_line_reader import compressed
from test_token_source import byte_tokenizer, documents_of, write_olmo
from warc_fixtures import members, page, warc_source

from data_recipes.corpus import build_corpus, spec_of
from data_recipes.debian_settings import DebianSource
from provenance.canonical import read_json
from provenance.digests import sha256_file
from provenance.fingerprint import stage_fingerprint

COMMIT = "c0" * 20


def pinned(directory, name):
    return {"path": name, "sha256": sha256_file(directory / name)}


def lines(*seeds):
    return "".join(json.dumps({"text": prose(seed), "metadata": {"license": "MIT"}}) + "\n" for seed in seeds).encode()


def sources(tmp_path, debian_files):
    compressed(tmp_path / "rows.jsonl.zst", lines(11, 12) + b"{broken\n")
    (tmp_path / "page.txt").write_text(prose(13))
    tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    write_olmo(tmp_path, documents_of(tokenizer, [prose(14), prose(15)]))
    common = {"split": "train", "as_of": AS_OF}
    stated = {"licence": {"spdx": "MIT", "evidence": "written for this test"}, "obtained_from": "the test"}
    field = {"licence_column": "metadata.license", **common}
    rows = {"type": "dataset", "name": "rows", "format": "jsonl", "files": [pinned(tmp_path, "rows.jsonl.zst")]}
    pages = {"type": "dataset", "name": "pages", "format": "text", "files": [pinned(tmp_path, "page.txt")]}
    remote = {"type": "hub", "name": "remote", "repo_id": "org/rows", "revision": COMMIT, "format": "jsonl"}
    shard = {"tokens": pinned(tmp_path, "a.npy"), "index": pinned(tmp_path, "a.csv.gz")}
    shards = {"type": "tokens", "name": "shards", "format": "olmo", "dtype": "u32", "eos_id": 256, "shards": [shard]}
    return [
        pypi_source(tmp_path / "cache", "alpha", project_files(1)),
        {**rows, **field},
        {**pages, **stated, **common},
        {**remote, "files": ["*.gz"], "card_licence": True, **field},
        source_values(debian_files, split="heldout"),
        {**shards, "tokenizer": pinned(tmp_path, "tokenizer.json"), **stated, **common},
        warc_source(tmp_path, {"web.warc.gz": members(page("https://a.example/", 22, head=""))}, **stated),
    ]


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The corpus; the library in every process asks the Hub on loopback."""
    debian_files = package({"docs/guide.md": prose(16).encode(), "docs/more.md": prose(17).encode()})
    bare = json.dumps({"text": prose(21)}).encode()
    remote = {
        "rows-0.jsonl.gz": gzip.compress(lines(18, 19), mtime=0),
        "rows-1.jsonl.gz": gzip.compress(lines(20) + bare),
        "README.md": b"---\nlicense: mit\n---\n",
    }
    with (
        debian_archive(debian_files) as (archive, _),
        loopback_hub({"datasets/org/rows": Repository(remote, COMMIT)}) as hub,
    ):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        execution = {
            "num_workers": 2, "cache_dir": tmp_path / "cache", "data_dir": tmp_path,
            "debian_archive": archive, "keep_fetched": False,
        }  # fmt: skip
        config = tiny_corpus_config(tmp_path, sources=sources(tmp_path, debian_files), execution=execution)
        strict = config.policy.model_copy(update={"weak_evidence": "deny"})
        config = config.model_copy(update={"policy": strict})
        return build_corpus(config, tiny_context(tmp_path / "store"))


def test_every_type_of_source_in_one_corpus(built):
    lock = {entry["name"]: entry for entry in read_json(built.path / "sources.lock")["sources"]}
    assert {name: entry["type"] for name, entry in lock.items()} == {
        "alpha": "pypi", "rows": "dataset", "pages": "dataset", "remote": "hub", "tiny": "debian", "shards": "tokens",
        "web": "warc",
    }  # fmt: skip
    for entry in lock.values():
        assert {"split", "as_of", "osaid_class", "obtain", "size_bytes", "licence"} <= entry.keys()
    assert len(lock["remote"]["files"]) == 2
    tables = sorted((built.path / "documents").glob("documents-*.parquet"))
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    kept = {name: [row for row in rows if row["source"] == name and row["decision"] == "kept"] for name in lock}
    assert {name: len(found) for name, found in kept.items()} | {"alpha": 0} == {
        "alpha": 0, "rows": 2, "pages": 1, "remote": 3, "tiny": 2, "shards": 2, "web": 1,
    }  # fmt: skip
    assert kept["alpha"]
    (broken,) = (row for row in rows if row["rule"] == "unparsable")
    assert (broken["source"], broken["path"]) == ("rows", "rows.jsonl.zst#2")
    assert {row["evidence_kind"] for row in kept["tiny"]} == {"dep5-stanza"}
    assert {row["split"] for row in kept["tiny"]} == {"heldout"}
    assert {row["licence_chosen"] for row in kept["tiny"]} == {"MIT"}
    assert_weak_evidence_was_dropped(built, rows)


def assert_weak_evidence_was_dropped(built, rows):
    """The row without a licence of its own, which the card alone gives one: dropped, with the policy that says so."""
    (row,) = (row for row in rows if row["rule"] == "licence_evidence")
    found = (row["source"], row["licence_spdx"], row["evidence_kind"], row["licence_chosen"])
    assert found == ("remote", "MIT", "hf-card", "")
    (step,) = (step for step in read_json(built.path / "corpus.json")["steps"] if step["name"] == "licence policy")
    assert step["parameters"]["weak_evidence"] == "deny"
    assert step["dropped"]["licence_evidence"] == 1
    assert read_json(built.path / "manifest.json")["recipe"]["policy"]["weak_evidence"] == "deny"


def test_a_library_that_only_some_sources_need_counts_only_for_them(tmp_path):
    debian = source_values(package({"docs/guide.md": b"# Guide\n"}), split="heldout")
    plain = tiny_corpus_config(tmp_path)
    with_debian = plain.model_copy(update={"sources": [*plain.sources, DebianSource.model_validate(debian)]})
    assert set(spec_of(with_debian).libraries) - set(spec_of(plain).libraries) == {"python-debian"}
    assert stage_fingerprint("corpus", {}, (), (), spec_of(plain).libraries) != stage_fingerprint(
        "corpus", {}, (), (), spec_of(with_debian).libraries
    )
