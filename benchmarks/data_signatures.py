"""Near-duplicate signatures: their speed against rensa's, and how many near-duplicates they find."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from data_peers import Peers, batches_of, in_turn
from data_text import MEGABYTE
from figures import Figure, make_figure

from data_recipes.near_duplicates import jaccard, shingles, signature
from data_recipes.rule_settings import NearDuplicateRules
from data_recipes.text_kernels import segment

RULES = NearDuplicateRules()
MIN_PAIRS = 200
SIZES = ((5, 40), (40, 200), (200, 1000), (1000, 100_000))
"""Words of the documents whose recall is measured apart."""


def signature_figures(texts: Sequence[str], peers: Path) -> list[Figure]:
    """MB per processor second from text to signature: ours, and rensa's two ways with shingles made in Python."""
    figures = []
    with Peers(peers) as worker:
        for task in ("rensa-r", "rensa-rho"):
            rates = in_turn(sign, lambda batch, task=task: worker.seconds(task, batch), batches_of(texts, 4 * MEGABYTE))
            name = f"near-duplicate signatures against {task}, MB per CPU second"
            ratio = median(ours / peer for ours, peer in rates.pairs)
            figures.append(make_figure(name, rates.ours, rates.peer, ratio=ratio, runs=len(rates.pairs), at_least=3.0))
    return figures


def sign(batch: Sequence[str]) -> None:
    """Make the signatures of some texts."""
    for text in batch:
        signature(segment(text).terms.hashes, RULES.shingle_words)


def recall_figures(texts: Sequence[str], num_pairs: int) -> list[Figure]:
    """Share of the pairs with a Jaccard index of 0.8 or more that share a band: real documents and changed copies."""
    figures = []
    for least, most in SIZES:
        rng = random.Random(least)
        pool = [words for words in (text.split() for text in texts) if least <= len(words)]
        found = total = 0
        while total < max(MIN_PAIRS, num_pairs):
            words = rng.choice(pool)
            length = rng.randint(least, min(most, len(words)))
            start = rng.randrange(len(words) - length + 1)
            first = words[start : start + length]
            pair = [segment(" ".join(words)).terms.hashes for words in (first, _changed(first, rng, rng.choice(pool)))]
            if not 0.8 <= jaccard(*(shingles(terms, RULES.shingle_words) for terms in pair)) < 1:
                continue
            total += 1
            one, other = (signature(terms, RULES.shingle_words) for terms in pair)
            found += bool((one == other).any())
        name = f"recall of pairs with Jaccard of 0.8 and more, documents of {least} to {most:,} words"
        figures.append(make_figure(name, found / total, 1.0, runs=total, at_least=0.95))
    return figures


def _changed(words: Sequence[str], rng: random.Random, others: Sequence[str]) -> list[str]:
    """A copy with single words replaced and a passage cut out or put in, as editions of a text differ."""
    copy = list(words)
    for _ in range(rng.randint(0, 1 + len(copy) // 50)):
        copy[rng.randrange(len(copy))] = rng.choice(others)
    passage = rng.randint(0, len(copy) // 12)
    place = rng.randrange(len(copy))
    return (
        copy[:place]
        + (list(others[:passage]) if rng.random() < 0.5 else [])
        + copy[place + passage * (rng.random() < 0.5) :]
    )
