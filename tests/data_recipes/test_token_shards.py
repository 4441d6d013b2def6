"""Writing token shards, and reading them back as windows."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.shards import TokenSequence, safe_name, shard_of, token_dtype, write_split, write_tokens_json
from data_recipes.windows import TokenWindows
from provenance.digests import sha256_file


def sequences(seed=0, num=40, sources=("a", "b"), width=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        key = rng.bytes(32).hex()
        ids = rng.integers(0, 500, width or int(rng.integers(1, 30)))
        mask = (rng.random(len(ids)) < 0.5).astype(np.uint8) if width else None
        found.append(TokenSequence(key, sources[int(rng.integers(len(sources)))], ids, mask))
    return found


def write(root, items, num_shards=3, layout="stream", width=0, split="train"):
    entry = write_split(root, split, items, layout=layout, width=width, dtype="u16", num_shards=num_shards)
    write_tokens_json(root, {split: entry}, vocab_size=500, eos_id=0, pad_id=1, tokenizer_sha256="0" * 64)
    return entry


def test_a_stream_holds_documents_in_id_order(tmp_path):
    items = sequences()
    entry = write(tmp_path, items)
    for source in entry["sources"]:
        expected = sorted((item for item in items if item.source == source["name"]), key=lambda item: item.key)
        files = [shard["files"] for shard in source["shards"]]
        tokens = np.concatenate([np.fromfile(tmp_path / file["tokens"]["path"], "<u2") for file in files])
        assert tokens.tolist() == [token for item in expected for token in item.ids.tolist()]
        ends = [np.fromfile(tmp_path / file["ends"]["path"], "<u8") for file in files]
        lengths = [length for shard in ends for length in np.diff(shard, prepend=np.uint64(0)).tolist()]
        assert lengths == [len(item.ids) for item in expected]
        assert source["num_tokens"] == len(tokens)
        assert source["num_documents"] == len(expected)
    assert [source["name"] for source in entry["sources"]] == ["a", "b"]


def test_digests_in_the_table_are_those_of_the_files(tmp_path):
    entry = write(tmp_path, sequences())
    files = [file for source in entry["sources"] for shard in source["shards"] for file in shard["files"].values()]
    assert all(sha256_file(tmp_path / file["path"]) == file["sha256"] for file in files)
    assert len(files) == len({file["path"] for file in files})


def test_the_order_of_arrival_changes_nothing(tmp_path):
    items = sequences()
    first = write(tmp_path / "1", items)
    random.Random(1).shuffle(items)
    assert write(tmp_path / "2", items) == first


def test_the_digest_follows_every_token_and_name(tmp_path):
    items = sequences()
    first = write(tmp_path / "1", items)["digest"]
    items[7].ids[0] ^= 1
    assert write(tmp_path / "2", items)["digest"] != first
    items[7].ids[0] ^= 1
    assert write(tmp_path / "3", items)["digest"] == first
    assert write(tmp_path / "4", items, num_shards=2)["digest"] != first
    assert write(tmp_path / "5", sequences(sources=("a", "c")))["digest"] != first


def test_windows_read_what_was_written(tmp_path):
    write(tmp_path, sequences(num=60), num_shards=2)
    windows = TokenWindows(tmp_path, "train", 16, verify=True)
    assert [source.name for source in windows.sources] == ["a", "b"]
    first_shard = np.fromfile(tmp_path / "tokens/train/a/tokens-000.bin", "<u2")
    ids, mask = windows.read(0, 1)
    assert ids.tolist() == first_shard[16:33].tolist()
    assert mask.tolist() == [0] + [1] * 16


def test_rows_keep_their_masks(tmp_path):
    items = sequences(num=20, width=9)
    write(tmp_path, items, layout="rows", width=9, split="sft")
    windows = TokenWindows(tmp_path, "sft", 8, verify=True)
    expected = sorted((item for item in items if item.source == "a"), key=lambda item: item.key)
    assert windows.sources[0].num_windows == len(expected)
    for number, item in enumerate(expected):
        ids, mask = windows.read(0, number)
        assert ids.tolist() == item.ids.tolist()
        assert mask.tolist()[1:] == item.mask.tolist()[1:]


def test_shards_without_documents_are_not_written(tmp_path):
    item = TokenSequence("f" * 64, "a", np.arange(5))
    entry = write(tmp_path, [item], num_shards=4)
    (shard,) = entry["sources"][0]["shards"]
    assert shard["files"]["tokens"]["path"] == "tokens/train/a/tokens-003.bin"


@given(st.integers(1, 1000), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_shards_are_in_key_order(num_shards, first, second):
    low, high = sorted((first, second))
    keys = [f"{number:08x}" + "0" * 56 for number in (low, high)]
    assert 0 <= shard_of(keys[0], num_shards) <= shard_of(keys[1], num_shards) < num_shards


@pytest.mark.parametrize("name", ["zope.interface", "a", "x_y-1.2"])
def test_harmless_names_stay(name):
    assert safe_name(name) == name


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_becomes_one_harmless_directory(first, second):
    for name in (first, second):
        made = safe_name(name)
        assert "/" not in made
        assert not made.startswith(".")
        assert made.isascii()
    assert (safe_name(first) == safe_name(second)) == (first == second)


def test_the_type_of_tokens_follows_the_vocabulary():
    assert token_dtype(65_536) == "u16"
    assert token_dtype(65_537) == "u32"
