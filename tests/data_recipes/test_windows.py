import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from data_recipes.order import Order, OrderSource, Phase
from data_recipes.pools import WindowPools
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from data_recipes.windows import TokenWindows, token_digest, tokens_digest_of
from provenance.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two streams of counted tokens and a split of rows."""
    stream = [TokenSequence(key(n), "α" if n % 3 else "b", np.arange(n, n + 7)) for n in range(12)]
    rows = [TokenSequence(key(n), "b", np.full(6, n), np.array([0, 0, 1, 1, 1, 0], np.uint8)) for n in range(4)]
    splits = {
        "train": write_split(tmp_path, "train", stream, layout="stream", width=0, dtype="u16", num_shards=2),
        "sft": write_split(tmp_path, "sft", rows, layout="rows", width=6, dtype="u16", num_shards=1),
    }
    write_tokens_json(tmp_path, splits, vocab_size=400, eos_id=0, pad_id=1, tokenizer_sha256="0" * 64)
    return tmp_path


def shard_tokens(corpus: Path, source: dict) -> list[np.ndarray]:
    return [np.fromfile(corpus / shard["files"]["tokens"]["path"], "<u2") for shard in source["shards"]]


def test_stream_windows_overlap_by_one_token_and_drop_tails(corpus: Path) -> None:
    windows = TokenWindows(corpus, "train", 5, verify=True)
    described = json.loads((corpus / "tokens" / "tokens.json").read_text())["splits"]["train"]["sources"]
    assert [source.name for source in windows.sources] == [source["name"] for source in described]
    for m, source in enumerate(described):
        expected = [
            tokens[w * 5 : w * 5 + 6] for tokens in shard_tokens(corpus, source) for w in range((len(tokens) - 1) // 5)
        ]
        assert windows.sources[m].num_windows == len(expected)
        for w, tokens in enumerate(expected):
            ids, mask = windows.read(m, w)
            assert ids.tolist() == tokens.tolist()
            assert mask.tolist() == [0, 1, 1, 1, 1, 1]


def test_rows_carry_their_mask(corpus: Path) -> None:
    windows = TokenWindows(corpus, "sft", 5)
    assert windows.sources == (OrderSource("b", 4),)
    for w in range(4):
        ids, mask = windows.read(0, w)
        assert len(set(ids.tolist())) == 1
        assert mask.tolist() == [0, 0, 1, 1, 1, 0]


def test_a_step_reads_its_windows_in_slot_order(corpus: Path) -> None:
    windows = TokenWindows(corpus, "train", 5)
    pools = WindowPools(corpus, "train", [5])
    total = sum(source.num_windows for source in windows.sources)
    counts = tuple(source.num_windows for source in windows.sources)
    order = Order(windows.tokens_digest, 4, windows.sources, (Phase(1, total, counts),))
    ids, mask = pools.read_draws(order, order.step_draws(1))
    assert ids.shape == mask.shape == (total, 6)
    draws = order.step_draws(1)
    assert [row.tolist() for row in ids] == [windows.read(d.source, d.window)[0].tolist() for d in draws]
    expected = hashlib.sha256()
    for row, kept in zip(ids, mask, strict=True):
        expected.update(row.astype("<u4").tobytes() + kept.tobytes())
    assert token_digest(ids, mask) == expected.hexdigest()


def test_the_digest_of_a_split_follows_the_formats_page(corpus: Path) -> None:
    described = json.loads((corpus / "tokens" / "tokens.json").read_text())["splits"]["train"]
    value = {
        "layout": "stream",
        "dtype": "u16",
        "width": 0,
        "sources": [
            {
                "name": source["name"],
                "shards": [
                    {
                        "num_tokens": shard["num_tokens"],
                        "files": {role: file["sha256"] for role, file in shard["files"].items()},
                    }
                    for shard in source["shards"]
                ],
            }
            for source in described["sources"]
        ],
    }
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert tokens_digest_of(described) == hashlib.sha256(b"openwright:tokens/1\n" + text).hexdigest()
    assert described["digest"] == tokens_digest_of(described)


def test_changed_or_missing_shards_are_named(corpus: Path) -> None:
    path = next((corpus / "tokens" / "train").rglob("tokens-*.bin"))
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match=path.name):
        TokenWindows(corpus, "train", 5, verify=True)
    path.write_bytes(data[:-2])
    with pytest.raises(DataError, match=path.name):
        TokenWindows(corpus, "train", 5)
    with pytest.raises(DataError, match="no split"):
        TokenWindows(corpus, "test", 5)
    with pytest.raises(DataError):
        TokenWindows(corpus, "sft", 7)
