"""Passages that stand in several documents: against a plain reading of the rule, one string at a time."""

import pytest
from corpus_fixtures import prose
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.repeated_text import Cut, Passage, cut_text, find_repeated_text
from data_recipes.rule_settings import RepeatedTextRules
from data_recipes.text import normalise

RULES = RepeatedTextRules(min_chars=20, min_words_left=2)
BLOCKS = [f"{letter * 9} {letter * 12} " for letter in "abcdef"]
"""Of 23 characters: one that is repeated holds four windows."""


def plainly(texts: list[str], is_whole: list[bool], rules: RepeatedTextRules) -> dict[int, tuple[set[int], bool]]:
    """Characters that are taken out, and whether the document is dropped."""
    size, holders, found = rules.min_chars, set[str](), dict[int, tuple[set[int], bool]]()
    for number, text in enumerate(texts):
        places = range(len(text) - size + 1)
        held = [] if is_whole[number] else [i for i in places if text[i : i + size] in holders]
        removed = {place for i in held for place in range(i, i + size)}
        left = "".join("\n" if place in removed else character for place, character in enumerate(text))
        is_dropped = bool(removed) and len(left.split()) < rules.min_words_left
        if removed:
            found[number] = removed, is_dropped
        if not is_dropped:
            holders |= {text[i : i + size] for i in places if removed.isdisjoint(range(i, i + size))}
    return found


def taken(cut: Cut) -> tuple[set[int], bool]:
    return {place for passage in cut.passages for place in range(passage.start, passage.end)}, cut.is_dropped


@given(
    st.lists(st.lists(st.sampled_from([*BLOCKS, "x", "yy "]), max_size=6).map("".join), max_size=6),
    st.integers(0, 63),
    st.sampled_from([1, 7, 1 << 20]),
)
def test_what_is_taken_out_is_what_a_plain_reading_of_the_rule_says(
    texts: list[str], whole: int, windows_per_pass: int
) -> None:
    is_whole = [bool(whole >> number & 1) for number in range(len(texts))]
    cuts = find_repeated_text(texts, is_whole, RULES, windows_per_pass)
    assert {number: taken(cut) for number, cut in cuts.items()} == plainly(texts, is_whole, RULES)
    for number, cut in cuts.items():
        for passage in cut.passages:
            assert passage.holder < number
            assert passage.end - passage.start >= RULES.min_chars
            kept = cuts.get(passage.holder)
            assert kept is None or not kept.is_dropped
            left = texts[passage.holder]
            if kept:
                left = "".join("\x00" if place in taken(kept)[0] else c for place, c in enumerate(left))
            assert texts[number][passage.start : passage.end] in left, "it can still be read in its holder"


def test_texts_of_any_script_are_compared_by_characters() -> None:
    shared = prose(3, 1, script="cyrillic").strip()
    texts = [f"{prose(1, 1)}{shared}", f"{prose(2, 1)}{shared} 🙂 {prose(4, 1)}"]
    (cut,) = find_repeated_text(texts, [False, False], RepeatedTextRules(min_chars=60)).values()
    (passage,) = cut.passages
    assert texts[1][passage.start : passage.end].endswith(shared)
    left = cut_text(texts[1], [(passage.start, passage.end)])
    assert shared not in left
    assert left == normalise(left)
    assert "🙂" in left


def test_repetition_within_one_text_is_left_alone() -> None:
    text = prose(5, 1) * 3
    assert find_repeated_text([text], [False], RULES) == {}
    (cut,) = find_repeated_text([text, prose(5, 1) + prose(6, 1)], [False, False], RULES).values()
    assert cut.passages[0] == Passage(0, cut.passages[0].end, 0)


def test_what_is_dropped_holds_nothing_for_others() -> None:
    """The second is too short without what the first has; the third keeps what only the second had besides."""
    first, other = BLOCKS[0] * 2 + prose(7, 1), BLOCKS[1]
    texts = [first, BLOCKS[0] * 2 + other, other + prose(8, 1)]
    cuts = find_repeated_text(texts, [False] * 3, RepeatedTextRules(min_chars=20, min_words_left=3))
    assert [(number, cut.is_dropped) for number, cut in cuts.items()] == [(1, True)]


def test_a_line_break_stands_in_the_place_of_a_passage() -> None:
    assert cut_text("one two three four", [(3, 8), (5, 9)]) == "one\nhree four"
    assert cut_text("one two", [(0, 7)]) == ""


@pytest.mark.parametrize("texts", [[], [""], ["", "short"], ["short", "short"]])
def test_texts_shorter_than_a_passage_have_none(texts: list[str]) -> None:
    assert find_repeated_text(texts, [False] * len(texts), RULES) == {}
