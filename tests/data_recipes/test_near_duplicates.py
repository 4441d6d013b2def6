"""Near-duplicates: signatures find candidates, exact Jaccard decides, every removal names the document it is like."""

import random

import numpy as np
import pytest
from corpus_fixtures import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes import near_duplicates
from data_recipes.near_duplicates import (
    NUM_BANDS,
    find_near_duplicates,
    find_suspects,
    jaccard,
    shingles,
    signature,
)
from data_recipes.text_kernels import segment

WORDS = [f"word{number}" for number in range(3000)]


def terms(text):
    return segment(text).terms.hashes


def shingle_set(words, size):
    """Plain Python: runs of words, or all words where there are fewer."""
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} if words else set()


def plain_jaccard(first, second, size=5):
    a, b = shingle_set(first.split(), size), shingle_set(second.split(), size)
    return len(a & b) / len(a | b) if a | b else 0.0


def changed(words, rng, num_changes):
    words = list(words)
    for _ in range(num_changes):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return words


def find(texts, min_jaccard=0.8):
    signatures = np.array([signature(terms(text), 5) for text in texts], dtype=np.uint64).reshape(-1, NUM_BANDS)
    return find_near_duplicates(signatures, lambda row: shingles(terms(texts[row]), 5), min_jaccard)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 7))
def test_the_jaccard_index_is_that_of_plain_sets(first, second, size):
    exact = plain_jaccard(" ".join(first), " ".join(second), size)
    assert jaccard(*(shingles(terms(" ".join(words)), size) for words in (first, second))) == exact


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=12), st.sampled_from([0.7, 0.8, 1.0]))
def test_what_is_dropped_is_like_what_is_kept_and_what_was_compared_is_not(texts, min_jaccard):
    texts = [" ".join(words) for words in texts]
    result = find(texts, min_jaccard)
    dropped = {item.row for item in result.found}
    for item in result.found:
        assert item.kept_row < item.row
        assert item.kept_row not in dropped
        assert item.jaccard == plain_jaccard(texts[item.row], texts[item.kept_row]) >= min_jaccard
    seen = set()
    for row, text in enumerate(texts):  # texts that are the same share all bands, so none of them is missed
        if text:
            assert (row in dropped) or text not in seen
            seen.add(text)


@pytest.mark.parametrize("num_words", [12, 40, 150, 600])
def test_nearly_all_pairs_from_the_threshold_on_are_found(num_words):
    rng = random.Random(num_words)
    num_pairs = num_found = 0
    for _ in range(400):
        first = [rng.choice(WORDS) for _ in range(num_words)]
        second = changed(first, rng, rng.randint(0, max(1, num_words // 40)))
        if plain_jaccard(" ".join(first), " ".join(second)) >= 0.8:
            num_pairs += 1
            num_found += len(find([" ".join(first), " ".join(second)]).found)
    assert num_pairs > 100
    assert num_found >= 0.97 * num_pairs


def test_case_and_punctuation_do_not_hide_a_copy():
    (item,) = find([prose(1), prose(2), prose(1).upper().replace(".", " !!")]).found
    assert (item.row, item.kept_row, item.jaccard) == (2, 0, 1.0)


def test_different_texts_stay():
    assert find([prose(seed) for seed in range(20)]).found == ()


def test_the_most_similar_document_is_named():
    base = [WORDS[number] for number in range(200)]
    closest = [*base[:100], "other", *base[101:]]
    copy = [*base[:100], "third", *base[101:]]
    near = [*copy[:199], "last"]
    result = find([" ".join(base), " ".join(near), " ".join(closest)], 0.97)
    assert [(item.row, item.kept_row) for item in result.found] == []
    result = find([" ".join(base), " ".join([*base[:199], "z"])], 0.9)
    assert [(item.row, item.kept_row) for item in result.found] == [(1, 0)]


def test_documents_without_terms_are_like_no_other():
    assert find(["", "", "--", "!!! ..."]).num_suspects == 0


def test_only_documents_that_share_a_band_are_looked_at_again():
    texts = [prose(seed) for seed in range(30)] + [prose(7) + " more"]
    signatures = np.array([signature(terms(text), 5) for text in texts])
    assert set(find_suspects(signatures)) >= {7, 30}
    asked = set()

    def shingles_of(row):
        asked.add(row)
        return shingles(terms(texts[row]), 5)

    find_near_duplicates(signatures, shingles_of, 0.8)
    assert asked <= set(find_suspects(signatures).tolist())


def test_the_result_does_not_depend_on_the_memory_for_sets(monkeypatch):
    rng = random.Random(5)
    base = [rng.choice(WORDS) for _ in range(100)]
    texts = [" ".join(changed(base, rng, rng.randint(0, 3))) for _ in range(40)]
    expected = find(texts)
    monkeypatch.setattr(near_duplicates, "_CACHE_BYTES", 2000)
    assert find(texts) == expected
    assert expected.found


def test_comparisons_that_were_not_made_are_counted(monkeypatch):
    rng = random.Random(6)
    base = [rng.choice(WORDS) for _ in range(100)]
    texts = [" ".join(changed(base, rng, 3)) for _ in range(40)]
    monkeypatch.setattr(near_duplicates, "MAX_COMPARED", 1)
    result = find(texts, 1.0)
    assert result.num_not_compared > 0
    assert result.num_compared <= 40


M = 2**64 - 1
BASE = 0x9E3779B97F4A7C15


def mix(value):
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ (value >> 33)) * factor & M
    return value ^ (value >> 33)


def plain_term_hash(term):
    value = 0xCBF29CE484222325
    for character in term:
        value = (value ^ ord(character)) * 0x100000001B3 & M
    return mix(value)


def plain_signature(term_list, size):
    """`openwright-signature/1` as docs/formats.md words it, in plain Python."""
    lowest = {}
    for shingle in shingle_set([plain_term_hash(term) for term in term_list], size):
        rolling = 0
        for value in shingle:
            rolling = (rolling * BASE + value) & M
        value = mix(rolling)
        place = ((value >> 32) * 120) >> 32
        lowest[place] = min(lowest.get(place, M), value & 0xFFFFFFFF)
    bins = []
    for place in range(120):
        donor, attempt = place, 0
        while donor not in lowest:
            attempt += 1
            donor = mix((place << 32) + attempt) % 120
        bins.append(lowest[donor])
    keys = []
    for band in range(20):
        key = mix(band + 1)
        for value in bins[6 * band : 6 * band + 6]:
            key = mix((key ^ value) * BASE & M)
        keys.append(max(key, 1))
    return keys


@settings(deadline=None)
@given(st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=60), st.integers(1, 8))
def test_a_signature_is_that_of_plain_python(term_list, size):
    assert signature(terms(" ".join(term_list)), size).tolist() == plain_signature(term_list, size)


def test_signatures_are_frozen():
    """`openwright-signature/1`: these numbers never change under this name."""
    keys = signature(terms("The quick brown fox jumps over the lazy dog, again and again."), 5)
    assert [f"{int(key):016x}" for key in keys[[0, 19]]] == FROZEN
    assert [f"{int(key):016x}" for key in signature(terms("two words"), 5)[[0, 19]]] == FROZEN_SHORT


FROZEN = ["3a3e350adad1df7d", "8c9f8ff6dc65cd6d"]
FROZEN_SHORT = ["46afe1d78425238f", "3ed7ead4fa5e0ead"]
