"""Exact de-duplication over columns of digests."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.deduplicate import digests_of, first_equal, hexadecimal_of, kept_rows, sorted_rows


def digests(names):
    return digests_of("".join(hashlib.sha256(name.encode()).hexdigest() for name in names).encode())


def kept(texts, heldout=()):
    is_heldout = np.array([row in heldout for row in range(len(texts))], dtype=bool)
    return kept_rows(digests(texts), ~is_heldout).tolist()


def test_the_first_row_stays():
    assert kept(["t", "u", "t", "t"]) == [0, 1, 0, 0]
    assert kept([]) == []


def test_held_out_text_is_never_trained_on():
    assert kept(["t", "t", "t", "u"], heldout=[1, 2]) == [1, 1, 1, 3]


@given(st.lists(st.tuples(st.sampled_from("vwxyz"), st.booleans()), max_size=40))
def test_one_document_of_each_text_stays(rows):
    texts = [text for text, _ in rows]
    heldout = [row for row, (_, is_heldout) in enumerate(rows) if is_heldout]
    found = kept(texts, heldout)
    for text in set(texts):
        members = [row for row, other in enumerate(texts) if other == text]
        expected = min(members, key=lambda row: (row not in heldout, row))
        assert [found[row] for row in members] == [expected] * len(members)


def test_digests_sort_as_their_digits_do():
    names = [str(number) for number in range(200)]
    hexadecimal = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    made = digests(names)
    assert [hexadecimal_of(row) for row in made] == hexadecimal
    assert [hexadecimal[row] for row in sorted_rows(made)] == sorted(hexadecimal)


def test_equal_digests_are_found():
    made = digests(["a", "b", "c"])
    assert first_equal(made, sorted_rows(made)) == -1
    twice = digests(["a", "b", "c", "b"])
    place = first_equal(twice, sorted_rows(twice))
    assert hexadecimal_of(twice[sorted_rows(twice)[place]]) == hashlib.sha256(b"b").hexdigest()
    assert first_equal(digests([]), sorted_rows(digests([]))) == -1
