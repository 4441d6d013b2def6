import random
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.heldout import HeldoutFunction, normalise, read_documents, read_functions
from eval.items import cloze_items, docstring_items, text_items
from eval.samples import read_items
from eval.settings import BitsPerByteConfig, ClozeConfig, DocstringChoiceConfig
from eval.tasks import BITS_PER_BYTE, CLOZE, DOCSTRING_CHOICE, write_tasks
from provenance.artifacts import Artifact
from provenance.errors import EvaluationError

TEXTS = BitsPerByteConfig(max_documents=10, max_characters=300, min_characters=50)
CHOICES = DocstringChoiceConfig(max_items=24)
WORDS = ClozeConfig(max_items=24, context_characters=80)


def all_items(corpus: Path, seed: int = 0) -> dict[str, list[Any]]:
    documents, functions = read_documents(corpus), read_functions(corpus)
    return {
        BITS_PER_BYTE: text_items(documents, TEXTS, seed),
        DOCSTRING_CHOICE: docstring_items(functions, CHOICES, seed),
        CLOZE: cloze_items(documents, WORDS, seed),
    }


def rewrite(corpus: Path, name: str, change: Any) -> None:
    rows = pq.read_table(corpus / name).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows)), corpus / name)


@pytest.fixture
def own_corpus(corpus: Artifact, tmp_path: Path) -> Path:
    shutil.copytree(corpus.path, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_items_come_from_heldout_documents_only(corpus: Artifact) -> None:
    train = pq.read_table(corpus.path / "text/train-00000.parquet").to_pylist()
    heldout = {row["document_id"]: row for row in pq.read_table(corpus.path / "text/heldout-00000.parquet").to_pylist()}
    trained = {row["document_id"] for row in train}
    trained_text = "\n".join(row["text"] for row in train)
    for rows in all_items(corpus.path).values():
        assert rows
        for row in rows:
            assert row["document_id"] not in trained
            assert (row["source"], row["licence"]) == tuple(
                heldout[row["document_id"]][k] for k in ("source", "licence")
            )
            assert row.get("text", "never in training") not in trained_text


def test_nothing_is_asked_of_a_document_that_was_taken_down(corpus: Artifact) -> None:
    gone = read_functions(corpus.path)[0].document_id
    functions = read_functions(corpus.path, [gone])
    assert gone not in {document.document_id for document in read_documents(corpus.path, [gone])}
    assert gone not in {function.document_id for function in functions}
    assert len(read_documents(corpus.path)) == len(read_documents(corpus.path, [gone])) + 1
    assert functions


def test_a_document_in_both_splits_is_refused(own_corpus: Path) -> None:
    leaked = pq.read_table(own_corpus / "text/heldout-00000.parquet").to_pylist()[3]
    rewrite(own_corpus, "text/train-00000.parquet", lambda rows: [*rows, leaked])
    with pytest.raises(EvaluationError, match=leaked["document_id"]):
        read_documents(own_corpus)
    with pytest.raises(EvaluationError, match=leaked["document_id"]):
        read_functions(own_corpus)


def test_a_summary_seen_in_training_is_not_asked(own_corpus: Path) -> None:
    seen = read_functions(own_corpus)[0]

    def plant(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[0]["messages"][1]["content"] = seen.summary.upper()
        return rows

    rewrite(own_corpus, "conversations/train-00000.parquet", plant)
    assert seen.conversation_id not in {function.conversation_id for function in read_functions(own_corpus)}


def test_choices_hold_the_answer_once_and_others_of_its_project(corpus: Artifact) -> None:
    functions = read_functions(corpus.path)
    by_id = {function.conversation_id: function for function in functions}
    rows = all_items(corpus.path)[DOCSTRING_CHOICE]
    for row in rows:
        function = by_id[row["item_id"]]
        assert row["choices"][row["answer"]] == function.summary
        assert len({normalise(choice) for choice in row["choices"]}) == 4
        project = {other.summary for other in functions if other.source == function.source}
        assert set(row["choices"]) <= project
        assert row["prompt"] == f"{function.qualified_name}{function.signature}"
    assert set(Counter(row["answer"] for row in rows).values()) == {6}


def function(name: str, summary: str) -> HeldoutFunction:
    return HeldoutFunction(f"id {name} {summary}", "d", "s", "MIT", name, "(x)", summary, "q")


def test_distractors_leave_out_respellings_and_namesakes() -> None:
    functions = [
        function("a.close", "Close the open file."),
        function("b.shut", "close  the OPEN file."),
        function("c.close", "Close the open port."),
        *(function(f"d.f{n}", f"Do another thing {n}.") for n in range(3)),
    ]
    config = DocstringChoiceConfig(min_summary_characters=5)
    asked = {row["item_id"]: row for row in docstring_items(functions, config, 0)}
    choices = set(asked["id a.close Close the open file."]["choices"])
    assert choices == {"Close the open file.", *(f"Do another thing {n}." for n in range(3))}


def test_cloze_candidates_are_alike_in_length_and_the_text_ends_before_the_word(corpus: Artifact) -> None:
    documents = {document.document_id: document for document in read_documents(corpus.path)}
    rows = all_items(corpus.path)[CLOZE]
    for row in rows:
        text = documents[row["document_id"]].text
        word = row["choices"][row["answer"]]
        start = int(row["item_id"].partition(":")[2])
        assert text[start:].startswith(f"{word}.")
        assert text[:start].rstrip().endswith(row["prompt"])
        assert len(row["prompt"]) <= WORDS.context_characters
        assert len({choice.casefold() for choice in row["choices"]}) == 4
        assert all(abs(len(choice) - len(word)) <= 2 for choice in row["choices"])
    assert max(Counter(row["document_id"] for row in rows).values()) <= WORDS.max_items_per_document


def test_non_latin_projects_give_items_too(corpus: Artifact) -> None:
    for rows in all_items(corpus.path).values():
        assert any(row["source"] == "delta" for row in rows)
    words = [word for row in all_items(corpus.path)[CLOZE] for word in row["choices"]]
    assert any("CYRILLIC" in unicodedata.name(word[0]) for word in words)


def test_items_depend_on_the_seed_and_not_on_the_order_of_rows(own_corpus: Path) -> None:
    before = all_items(own_corpus)
    assert all_items(own_corpus, seed=1) != before
    for name in ("text/heldout-00000.parquet", "conversations/heldout-00000.parquet"):
        rewrite(own_corpus, name, lambda rows: random.Random(3).sample(rows, len(rows)))
    assert all_items(own_corpus) == before


def test_no_heldout_text_is_an_error(own_corpus: Path) -> None:
    (own_corpus / "text/heldout-00000.parquet").unlink()
    with pytest.raises(EvaluationError, match="no held-out text"):
        read_documents(own_corpus)


def test_too_few_items_is_an_error(corpus: Artifact, tmp_path: Path) -> None:
    items = all_items(corpus.path)
    items[CLOZE] = items[CLOZE][:3]
    with pytest.raises(EvaluationError, match=f"{CLOZE} has 3 items"):
        write_tasks(tmp_path, items, {}, min_items=4)


def test_shown_items_are_never_asked(corpus: Artifact, tmp_path: Path) -> None:
    items = all_items(corpus.path)
    write_tasks(tmp_path, items, {CLOZE: 2}, min_items=4)
    shown, asked = read_items(tmp_path / f"{CLOZE}_fewshot.jsonl"), read_items(tmp_path / f"{CLOZE}.jsonl")
    assert shown == items[CLOZE][:2]
    assert asked == items[CLOZE][2:]
