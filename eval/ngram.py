"""Unigram and interpolated trigram models over token ids, in numpy, with the same result on every machine.

Method (`ngram/1`), with counts `c` over the training tokens in file order, `N` of them, vocabulary size `V`:

    p1(w)     = (c(w) + 1) / (N + V)
    p2(w|v)   = a * c(v w) / c(v .)     + (1 - a) * p1(w)        a = weights2[bucket(c(v .))]
    p3(w|u v) = b * c(u v w) / c(u v .) + (1 - b) * p2(w|v)      b = weights3[bucket(c(u v .))]

`bucket(n)` is the bit length of n, at most 15; a context that was never seen has weight 0. The weights are found by
20 rounds of expectation-maximisation on training tokens held back from the counts (the end of each shard), rounded
to 1/1024 and at most 1023/1024; then all training tokens are counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BUCKETS = 16
WEIGHT_STEPS = 1024
_NUM_ROUNDS = 20

Tokens = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Counts of the n-grams of one token sequence.

    Attributes:
        vocab_size: number of token ids.
        unigrams: count by token id.
        heads: count of a token id as the first of a pair.
        pairs, triples: sorted keys and their counts; a key is the ids in base `vocab_size`.
        pair_heads: sorted keys of pairs that begin a triple, and their counts.
    """

    vocab_size: int
    unigrams: NDArray[np.int64]
    heads: NDArray[np.int64]
    pairs: tuple[Tokens, Tokens]
    triples: tuple[Tokens, Tokens]
    pair_heads: tuple[Tokens, Tokens]


def count_ngrams(tokens: Tokens, vocab_size: int) -> Counts:
    """Count the unigrams, pairs and triples of a sequence of at least three token ids."""
    assert vocab_size < 2**21, "keys of triples are 64-bit integers"
    pair_keys = tokens[:-1] * vocab_size + tokens[1:]
    triple_keys, triple_counts = _count(pair_keys[:-1] * vocab_size + tokens[2:])
    heads, starts = np.unique(triple_keys // vocab_size, return_index=True)
    return Counts(
        vocab_size,
        np.bincount(tokens, minlength=vocab_size),
        np.bincount(tokens[:-1], minlength=vocab_size),
        _count(pair_keys),
        (triple_keys, triple_counts),
        (heads, np.add.reduceat(triple_counts, starts)),
    )


def _count(keys: Tokens) -> tuple[Tokens, Tokens]:
    found, counts = np.unique(keys, return_counts=True)
    return found, counts.astype(np.int64)


def _lookup(table: tuple[Tokens, Tokens], keys: Tokens) -> Tokens:
    places = np.minimum(np.searchsorted(table[0], keys), len(table[0]) - 1)
    found: Tokens = np.where(table[0][places] == keys, table[1][places], 0)
    return found


def unigram_probabilities(counts: Counts, tokens: Tokens) -> Floats:
    """p1 of each token."""
    total = int(counts.unigrams.sum()) + counts.vocab_size
    return (counts.unigrams[tokens] + 1).astype(np.float64) / float(total)


@dataclass(frozen=True)
class _Level:
    """For each predicted token: its relative frequency after the context, and the bucket of the context's count."""

    frequency: Floats
    bucket: NDArray[np.int64]


def _levels(counts: Counts, tokens: Tokens) -> tuple[_Level, _Level]:
    """Levels of pairs and triples for the predicted tokens `tokens[2:]`."""
    before, last, predicted = tokens[:-2], tokens[1:-1], tokens[2:]
    pair = _lookup(counts.pairs, last * counts.vocab_size + predicted)
    heads = before * counts.vocab_size + last
    triple = _lookup(counts.triples, heads * counts.vocab_size + predicted)
    return _level(pair, counts.heads[last]), _level(triple, _lookup(counts.pair_heads, heads))


def _level(joint: Tokens, context: Tokens) -> _Level:
    _, exponent = np.frexp(context.astype(np.float64))  # the bit length of a positive integer
    frequency = joint.astype(np.float64) / np.maximum(context, 1).astype(np.float64)
    return _Level(frequency, np.minimum(exponent, NUM_BUCKETS - 1).astype(np.int64))


@dataclass(frozen=True)
class Trigram:
    """An interpolated trigram model; weights are in 1/1024, by bucket."""

    counts: Counts
    pair_weights: tuple[int, ...]
    triple_weights: tuple[int, ...]

    def probabilities(self, tokens: Tokens) -> Floats:
        """p3 of `tokens[2:]`, each after the two tokens before it."""
        pair_level, triple_level = _levels(self.counts, tokens)
        p2 = _mix(pair_level, self.pair_weights, unigram_probabilities(self.counts, tokens[2:]))
        return _mix(triple_level, self.triple_weights, p2)


def _mix(level: _Level, weights: Sequence[int], lower: Floats) -> Floats:
    share: Any = np.asarray(weights, dtype=np.float64)[level.bucket] / WEIGHT_STEPS
    mixed: Floats = share * level.frequency + (1.0 - share) * lower
    return mixed


def train_trigram(counted: Tokens, heldback: Tokens, vocab_size: int) -> Trigram:
    """Choose the weights on `heldback` with counts of `counted`, then count both.

    Args:
        counted: training tokens to count while the weights are chosen.
        heldback: other training tokens; never held-out text.
    """
    partial = count_ngrams(counted, vocab_size)
    pair_level, triple_level = _levels(partial, heldback)
    p1 = unigram_probabilities(partial, heldback[2:])
    pair_weights = _fit(pair_level, p1)
    triple_weights = _fit(triple_level, _mix(pair_level, pair_weights, p1))
    counts = count_ngrams(np.concatenate([counted, heldback]), vocab_size)
    return Trigram(counts, pair_weights, triple_weights)


def _fit(level: _Level, lower: Floats) -> tuple[int, ...]:
    """Weights by bucket that make the held-back tokens most likely; 1/2 where a bucket has none."""
    weights = np.full(NUM_BUCKETS, 0.5)
    weights[0] = 0.0
    sizes = np.bincount(level.bucket, minlength=NUM_BUCKETS)
    for _ in range(_NUM_ROUNDS):
        share = weights[level.bucket]
        upper = share * level.frequency
        owed = upper / (upper + (1.0 - share) * lower)
        # bincount adds in the order of the array, so that the sum is the same on every machine.
        sums = np.bincount(level.bucket, weights=owed, minlength=NUM_BUCKETS)
        weights = np.where(sizes > 0, sums / np.maximum(sizes, 1), weights)
    # Below 1, so that no token is impossible.
    return tuple(min(round(float(weight) * WEIGHT_STEPS), WEIGHT_STEPS - 1) for weight in weights)


def information_bits(probabilities: Floats) -> float:
    """Sum of `-log2 p`, correctly rounded."""
    return math.fsum(-math.log2(p) for p in probabilities.tolist())
