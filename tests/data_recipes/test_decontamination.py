"""Decontamination: what evaluation items and documents share, against plain Python sets, and the files of items."""

import hashlib
import json
import random

import pytest
from corpus_fixtures import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_statistics import terms_of
from pydantic import ValidationError

from data_recipes.decontamination import build_index
from data_recipes.evaluation_sets import (
    CARRIED_SETS,
    EvaluationItem,
    EvaluationSetFile,
    carry_sets,
    read_evaluation_set,
)
from data_recipes.rule_settings import DecontaminationRules
from data_recipes.text_kernels import segment
from provenance.errors import DataError, SourceError

QUESTION = "Which of the following statements about the moons of Jupiter that Galileo saw in 1610 is not true?"
RULES = DecontaminationRules()


def find(document, *texts, rules=RULES):
    items = [EvaluationItem("set", f"item{number}", (text,)) for number, text in enumerate(texts)]
    return build_index(items, rules).find(segment(document).terms)


def plain_runs(text, rules):
    terms = terms_of(text)
    length = min(rules.ngram_words, len(terms))
    if len(terms) < rules.min_item_words:
        return set()
    return {tuple(terms[place : place + length]) for place in range(len(terms) - length + 1)}


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abc"), max_size=40),
    st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=5),
    st.integers(2, 6),
    st.integers(1, 5),
)
def test_hits_and_overlap_are_those_of_plain_sets(document, items, ngram_words, min_item_words):
    rules = DecontaminationRules(ngram_words=ngram_words, min_item_words=min_item_words)
    document, items = " ".join(document), [" ".join(item) for item in items]
    terms = terms_of(document)
    result = find(document, *items, rules=rules)
    overlaps = {}
    for number, item in enumerate(items):
        runs = plain_runs(item, rules)
        length = len(next(iter(runs), ()))
        there = {tuple(terms[place : place + length]) for place in range(len(terms) - length + 1)} & runs
        if there:
            overlaps[f"item{number}"] = len(there) / len(runs)
    assert result.overlap == max(overlaps.values(), default=0.0)
    assert {hit.item_id for hit in result.hits} == set(overlaps)
    for hit in result.hits:
        length = len(next(iter(plain_runs(items[int(hit.item_id[4:])], rules))))
        assert len(terms_of(document[hit.start : hit.end])) == hit.num_runs + length - 1


def test_a_copied_question_is_found_in_other_case_and_punctuation():
    copy = QUESTION.upper().replace(" ", ",\n")
    document = f"{prose(1)}\n{copy}\n{prose(2)}"
    result = find(document, prose(9), QUESTION)
    assert result.overlap == 1.0
    (hit,) = result.hits
    assert (hit.set_name, hit.item_id) == ("set", "item1")
    assert document[hit.start : hit.end] == copy.rstrip("?")


def test_part_of_a_question_overlaps_in_part():
    half = " ".join(QUESTION.split()[:14])
    assert find(f"{prose(1)} {half} {prose(2)}", QUESTION).overlap == pytest.approx(2 / 6)


def test_a_text_that_shares_too_few_words_is_clean():
    eleven = " ".join(QUESTION.split()[:12])
    assert find(f"{prose(1)} {eleven} something else", QUESTION).hits == ()
    assert find("", QUESTION).hits == ()


def test_a_short_item_is_looked_for_whole_and_a_shorter_one_not_at_all():
    nine = "How many moons does the planet Jupiter really have?"
    assert find(f"Somebody asked: {nine} Nobody knew.", nine).overlap == 1.0
    assert find(f"Somebody asked: {nine.replace('moons', 'rings')} Nobody knew.", nine).hits == ()
    index = build_index([EvaluationItem("set", "a", ("Who is it?", nine))], RULES)
    assert index.lock["sets"][0]["num_texts_too_short"] == 1
    assert index.find(segment("Who is it? It is me.").terms).hits == ()


def test_an_item_without_text_is_no_error():
    assert find(prose(1), "", "...").hits == ()
    assert build_index([], RULES).find(segment(prose(1)).terms).overlap == 0


def test_the_digest_of_a_set_changes_with_any_item():
    items = [EvaluationItem("set", "a", (QUESTION,)), EvaluationItem("set", "b", ("x",))]
    digest = build_index(items, RULES).lock["sets"][0]["items_digest"]
    assert build_index(list(items), RULES).lock["sets"][0]["items_digest"] == digest
    items[1] = EvaluationItem("set", "b", ("y",))
    assert build_index(items, RULES).lock["sets"][0]["items_digest"] != digest


def test_many_items_are_all_found():
    rng = random.Random(1)
    items = [" ".join(f"w{rng.randrange(5000)}" for _ in range(20)) for _ in range(300)]
    document = "\n".join(rng.sample(items, 150))
    assert len({hit.item_id for hit in find(document, *items).hits}) == 150


def items_file(tmp_path, rows, **changes):
    data = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
    (tmp_path / "items.jsonl").write_bytes(data)
    values = {"name": "quiz", "path": "items.jsonl", "sha256": hashlib.sha256(data).hexdigest()}
    return EvaluationSetFile(**values | {"text_columns": ["prompt", "choices"], "id_column": "item_id"} | changes)


def test_items_are_read_with_their_choices(tmp_path):
    source = items_file(tmp_path, [{"item_id": 7, "prompt": QUESTION, "choices": ["a", "b"]}, ""])
    assert read_evaluation_set(source, tmp_path) == [EvaluationItem("quiz", "7", (QUESTION, "a", "b"))]
    unnamed = items_file(tmp_path, [{"prompt": "x"}, "", {"prompt": "y"}], text_columns=["prompt"], id_column="")
    assert [item.item_id for item in read_evaluation_set(unnamed, tmp_path)] == ["0", "2"]


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    source = items_file(tmp_path, [{"item_id": 1, "prompt": "a", "choices": []}])
    with (tmp_path / "items.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(SourceError, match="sha256"):
        read_evaluation_set(source, tmp_path)
    (tmp_path / "items.jsonl").unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        read_evaluation_set(source, tmp_path)


LICENCE = {"spdx": "MIT", "evidence": "its card"}


def test_a_set_is_carried_where_its_licence_is_stated_and_taken_from_there(tmp_path):
    source = items_file(tmp_path, [{"item_id": 1, "prompt": QUESTION, "choices": []}], licence=LICENCE, shipping="file")
    named = items_file(tmp_path, [{"item_id": 1, "prompt": QUESTION, "choices": []}], name="a")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    entries = carry_sets([source, named], tmp_path, None, corpus)
    assert [(entry["name"], entry["shipping"]) for entry in entries] == [("a", "reference"), ("quiz", "file")]
    (carried,) = (corpus / CARRIED_SETS).iterdir()
    assert entries[1]["size_bytes"] == carried.stat().st_size
    (tmp_path / "items.jsonl").unlink()
    (item,) = read_evaluation_set(source, tmp_path, corpus / CARRIED_SETS)
    assert item.texts == (QUESTION,)
    carried.write_bytes(b"")
    with pytest.raises(SourceError, match="evaluation set 'quiz'"):
        carry_sets([source], tmp_path, corpus / CARRIED_SETS, tmp_path)


def test_a_set_without_a_licence_is_not_carried(tmp_path):
    with pytest.raises(ValidationError, match="a licence under which the file may be passed on"):
        items_file(tmp_path, [], shipping="file")


@pytest.mark.parametrize("row", ["{", "[1]", {"item_id": 1, "prompt": "a"}, {"item_id": 1, "prompt": 3, "choices": []}])
def test_a_line_that_is_no_item_is_named(tmp_path, row):
    source = items_file(tmp_path, [{"item_id": 0, "prompt": "a", "choices": []}, row])
    with pytest.raises(DataError, match="line 2 of evaluation set 'quiz'"):
        read_evaluation_set(source, tmp_path)


@pytest.mark.parametrize("path", ["/absolute.jsonl", "../up.jsonl", ""])
def test_paths_stay_below_the_data_directory(tmp_path, path):
    with pytest.raises(ValueError, match="relative path"):
        items_file(tmp_path, [], path=path)
