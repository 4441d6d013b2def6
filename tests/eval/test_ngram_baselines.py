import gzip
import itertools
import lzma
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from eval.baselines import measure_baselines
from eval.ngram import WEIGHT_STEPS, Trigram, count_ngrams, information_bits, train_trigram, unigram_probabilities
from eval.settings import BaselinesConfig, IntervalConfig
from provenance.artifacts import Artifact
from provenance.canonical import parse_hex_float, read_json, write_json
from provenance.errors import EvaluationError

VOCAB = 7


def sequence(*ids: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.asarray(ids, dtype=np.int64)


def brute_force(model: Trigram, training: list[int], before: int, last: int, token: int) -> float:
    """p3 by dictionaries, straight from the definition."""
    unigrams = Counter(training)
    pairs = Counter(itertools.pairwise(training))
    triples = Counter(zip(training, training[1:], training[2:], strict=False))

    def weight(weights: tuple[int, ...], count: int) -> float:
        return weights[min(count.bit_length(), 15)] / WEIGHT_STEPS

    p = (unigrams[token] + 1) / (len(training) + VOCAB)
    seen = sum(count for (first, _), count in pairs.items() if first == last)
    share = weight(model.pair_weights, seen)
    p = (share * pairs[last, token] / seen if seen else 0.0) + (1 - share) * p
    seen = sum(count for (first, second, _), count in triples.items() if (first, second) == (before, last))
    share = weight(model.triple_weights, seen)
    return (share * triples[before, last, token] / seen if seen else 0.0) + (1 - share) * p


TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=60)


@given(TOKENS, TOKENS, TOKENS)
def test_trigram_matches_brute_force(counted: list[int], heldback: list[int], text: list[int]) -> None:
    model = train_trigram(sequence(*counted), sequence(*heldback), VOCAB)
    found = model.probabilities(sequence(*text))
    expected = [
        brute_force(model, counted + heldback, *triple) for triple in zip(text, text[1:], text[2:], strict=False)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert all(p > 0 for p in found)


@given(TOKENS, TOKENS, st.integers(0, VOCAB - 1), st.integers(0, VOCAB - 1))
def test_probabilities_of_all_tokens_sum_to_one(counted: list[int], heldback: list[int], u: int, v: int) -> None:
    model = train_trigram(sequence(*counted), sequence(*heldback), VOCAB)
    every = [float(model.probabilities(sequence(u, v, token))[0]) for token in range(VOCAB)]
    assert math.fsum(every) == pytest.approx(1.0, abs=1e-12)
    assert math.fsum(unigram_probabilities(model.counts, np.arange(VOCAB)).tolist()) == pytest.approx(1.0)


def test_a_trigram_learns_what_a_unigram_cannot() -> None:
    cycle = [0, 1, 2, 3, 4, 5, 6] * 40
    model = train_trigram(sequence(*cycle), sequence(*cycle[:70]), VOCAB)
    text = sequence(*cycle[:30])
    unigram = information_bits(unigram_probabilities(count_ngrams(text, VOCAB), text[2:]))
    assert information_bits(model.probabilities(text)) < unigram / 50


def texts(items: list[str]) -> list[dict[str, str]]:
    return [{"item_id": f"{number:064x}", "text": text} for number, text in enumerate(items)]


def test_baselines_of_a_corpus(corpus: Artifact, tokenizer: Tokenizer) -> None:
    documents = ["The reader opens a window of stored text.", "Читатель открывает окно текста.", "日本語の文章です。"]
    found = measure_baselines(corpus.path, texts(documents), BaselinesConfig(), IntervalConfig())
    assert found == measure_baselines(corpus.path, texts(documents), BaselinesConfig(), IntervalConfig())
    rows = {row["name"]: row for row in found["rows"]}
    data = "".join(documents).encode()
    assert found["num_bytes"] == len(data)
    assert parse_hex_float(rows["gzip"]["value"]) == 8 * len(gzip.compress(data, 9, mtime=0)) / len(data)
    assert parse_hex_float(rows["xz"]["value"]) == 8 * len(lzma.compress(data, preset=9)) / len(data)
    tokens = np.fromfile(corpus.path / "tokens/train/alpha/tokens-000.bin", dtype="<u2").tolist()
    tokens += np.fromfile(corpus.path / "tokens/train/beta/tokens-000.bin", dtype="<u2").tolist()
    counts, vocab = Counter(tokens), tokenizer.get_vocab_size()
    ids = tokenizer.encode(documents[1]).ids
    expected = -sum(math.log2((counts[token] + 1) / (len(tokens) + vocab)) for token in ids)
    assert parse_hex_float(rows["unigram"]["document_bits"][1]) == pytest.approx(expected, rel=1e-12)
    assert parse_hex_float(rows["trigram"]["document_bits"][0]) < parse_hex_float(rows["unigram"]["document_bits"][0])
    for name in ("unigram", "trigram"):
        low, value, high = (parse_hex_float(rows[name][key]) for key in ("low", "value", "high"))
        assert low <= value <= high


def test_a_cap_on_training_tokens_takes_the_same_share_of_each_shard(corpus: Artifact) -> None:
    full = measure_baselines(corpus.path, texts(["some text"]), BaselinesConfig(), IntervalConfig())
    total = full["training"]["num_counted_tokens"] + full["training"]["num_heldback_tokens"]
    half = measure_baselines(
        corpus.path, texts(["some text"]), BaselinesConfig(max_training_tokens=total // 2), IntervalConfig()
    )
    taken = half["training"]["num_counted_tokens"] + half["training"]["num_heldback_tokens"]
    assert abs(taken - total // 2) <= 2


def test_too_few_training_tokens_is_an_error(corpus: Artifact, tmp_path: Path) -> None:
    index = read_json(corpus.path / "tokens/tokens.json")
    shard = index["splits"]["train"]["sources"][0]["shards"][0]
    shard["num_tokens"] = 10
    shard["files"]["tokens"]["path"] = str(corpus.path / shard["files"]["tokens"]["path"])
    index["splits"]["train"]["sources"] = index["splits"]["train"]["sources"][:1]
    write_json(tmp_path / "tokens/tokens.json", index)
    with pytest.raises(EvaluationError, match="10 training tokens"):
        measure_baselines(tmp_path, texts(["some text"]), BaselinesConfig(), IntervalConfig())
