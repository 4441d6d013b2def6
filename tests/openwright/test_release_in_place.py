"""A release over a file of tokens in place: what is shipped, taken down, looked up, and read in another order."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_jobs import SMALL, records, run_here, small_config, small_job

from data_recipes.tombstones import Tombstone
from data_recipes.windows import token_digest
from openwright import cli
from provenance.artifacts import load_artifact
from provenance.digests import sha256_file
from release.shipping import copy_corpus

TOKENS = "tokens/train/theirs/tokens-000.bin"
WINDOW = 32


@pytest.fixture(scope="module")
def corpus(place):
    """The corpus artifact of the tiny release."""
    (path,) = (place / "artifacts" / "tiny-second" / "corpus").glob("*/manifest.json")
    return load_artifact(path.parent, check_files=False)


@pytest.fixture(scope="module")
def theirs(place):
    """The file of tokens that others own."""
    return place / "scratch" / "data" / "theirs.bin"


def rows_of(corpus) -> list[dict[str, object]]:
    paths = sorted((corpus.path / "documents").glob("documents-*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["source"] == "theirs"]


def shipped(corpus, target, kind, tombstones=()) -> Path:
    copy_corpus(corpus.path, target, [entry.path for entry in corpus.results], {"theirs": kind}, tombstones)
    return target


def test_the_file_is_the_shard_and_a_bundle_has_a_copy(corpus, theirs, bundle):
    assert (corpus.path / TOKENS).samefile(theirs)
    copy = bundle / "dataset" / TOKENS
    assert not copy.samefile(theirs)
    assert copy.read_bytes() == theirs.read_bytes()
    assert [row["path"].split("#")[1] for row in rows_of(corpus)] == [str(number) for number in range(7)]


def test_what_may_not_be_passed_on_stays_out(corpus, tmp_path):
    for kind, has_tokens, has_text in (("text", True, True), ("tokens", True, False), ("index", False, False)):
        target = shipped(corpus, tmp_path / kind, kind)
        texts = [path for path in (target / "text").glob("train-*.parquet")]
        sources = {name for path in texts for name in pq.read_table(path, columns=["source"])["source"].to_pylist()}
        assert ((target / TOKENS).is_file(), "theirs" in sources) == (has_tokens, has_text)


def test_a_takedown_blanks_a_copy_and_leaves_the_file_as_it_is(corpus, theirs, tmp_path):
    before, tokens = sha256_file(theirs), np.fromfile(theirs, "<u2")
    rows = rows_of(corpus)
    begin = sum(row["num_tokens"] for row in rows[:2])
    end = begin + rows[2]["num_tokens"]
    asked = Tombstone(rows[2]["document_id"], rows[2]["text_sha256"], "2026-11-26", "asked")
    target = shipped(corpus, tmp_path / "dataset", "text", [asked])
    assert not (target / TOKENS).exists()
    blanked = np.fromfile(target / "redacted" / TOKENS, "<u2")
    assert np.flatnonzero(blanked != tokens).tolist() == list(range(begin, end))
    assert sha256_file(theirs) == before == sha256_file(corpus.path / TOKENS)


def test_commands_tell_of_such_documents(corpus, bundle, capsys):
    short = rows_of(corpus)[-1]
    assert cli.invoke(["inspect", "document", short["document_id"][:20], "--in", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "also       rule_not_applied: min_num_words" in lines
    assert "also       kind: in-place" in lines
    assert cli.invoke(["data", "licences", "--in", str(bundle), "--json"]) == 0
    assert "CC0-1.0" in capsys.readouterr().out
    assert cli.invoke(["data", "stats", "--in", str(bundle), "--json"]) == 0
    assert any("theirs" in line for line in capsys.readouterr().out.splitlines())


def test_a_run_reads_the_file_in_the_order_of_another_program(corpus, theirs, tmp_path, capsys):
    """What it was fed follows from the file of tokens and the numbers of instances alone."""
    tokens = np.fromfile(theirs, "<u2")
    numbers = np.random.default_rng(3).permutation(len(tokens) // WINDOW)[:24]
    numbers.astype("<u4").tofile(tmp_path / "global_indices.npy")
    path = tmp_path / "order.bin"
    arguments = ["data", "order", str(tmp_path / "global_indices.npy"), "--in", str(corpus.path), "--source", "theirs"]
    assert cli.invoke([*arguments, "--window-tokens", str(WINDOW), "--to", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["format"], made["num_windows"], made["num_left_out"]) == ("openwright-order-file/1", 24, 0)
    pin = {"path": path.name, **{key: made[key] for key in ("sha256", "dtype", "tokens_digest")}}
    config = small_config(data={**SMALL["data"], "window_tokens": WINDOW, "order": pin})
    (tmp_path / "run").mkdir()
    assert run_here(small_job(corpus.path, tmp_path / "run", config, order_file=str(path)))
    steps = records(tmp_path / "run", "step")
    assert len(steps) == 6
    mask = np.ones((4, WINDOW + 1), np.uint8)
    mask[:, 0] = 0
    for step, of_step in zip(steps, numbers.reshape(6, 4), strict=True):
        fed = np.array([tokens[number * WINDOW : number * WINDOW + WINDOW + 1] for number in of_step])
        assert step["token_digest"] == token_digest(fed, mask)
        assert step["tokens_by_source"] == {"theirs": 4 * WINDOW}
    assert cli.invoke([*arguments, "--window-tokens", str(WINDOW), "--to", str(path)]) == 1
    assert "the file exists" in capsys.readouterr().err
    assert cli.invoke([*arguments, "--window-tokens", str(WINDOW), "--to", str(tmp_path / "no" / "order.bin")]) == 2
    assert cli.invoke([*arguments, "--window-tokens", str(WINDOW), "--to", str(tmp_path / "new.bin")]) == 0
    assert f"order: {{path: new.bin, sha256: {made['sha256']}, dtype: u32" in capsys.readouterr().out
