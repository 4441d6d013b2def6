"""What a corpus says of evaluation sets and personal data in its conversations from files, against their rows."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_recipes.chat_files import ChatFindings, make_example
from data_recipes.chat_step import DroppedChat
from data_recipes.chat_table import write_dropped, write_examples
from release.chat_counts import chat_findings, wrong_chat_counts
from release.layout import role_of

PLACE = {"part": "completion", "turn": 0, "start": 0, "end": 9}
HIT = {"set": "quiz", "item": "7", **PLACE, "num_runs": 2}
MAIL = {"kind": "email", **PLACE}
FOUND = [ChatFindings(0.5, (HIT, HIT), (MAIL, MAIL), "0" * 64), ChatFindings(0.1, (HIT,)), ChatFindings()]
STATED = {
    "chat": {
        "contamination": {"quiz": {"num_examples": 2, "num_dropped": 1}},
        "personal_data": {"email": {"num_examples": 1, "num_places": 2}},
        "num_redacted": 1,
    }
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    answers = ((("user", "ask"), ("assistant", "да")),)
    example = make_example("talks", "train", "MIT", (), answers)
    kept = [replace(example, key=f"{number:064x}", findings=found) for number, found in enumerate(FOUND)]
    write_examples("chat", [(one, one.key) for one in kept], root)
    rules = ("max_item_overlap", "max_num_emails")
    write_dropped([DroppedChat("1" * 64, "talks", "chat", rule, FOUND[0]) for rule in rules], root)
    return root


def test_counts_of_the_rows_are_those_that_are_stated(dataset: Path) -> None:
    assert list(wrong_chat_counts(dataset, STATED)) == []
    assert list(wrong_chat_counts(dataset, {"chat": {"num_rows": 3}})) == [], "a corpus that does not say"
    assert list(wrong_chat_counts(dataset, {})) == []
    assert role_of("dataset/dropped-chats/dropped-00000.parquet") == "result"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("contamination", {"quiz": {"num_examples": 1, "num_dropped": 1}}),
        ("contamination", {"quiz": {"num_examples": 2, "num_dropped": 0}}),
        ("contamination", {}),
        ("personal_data", {"email": {"num_examples": 1, "num_places": 1}}),
        ("personal_data", {}),
        ("num_redacted", 0),
    ],
)
def test_other_counts_are_found_out(dataset: Path, key: str, changes: Any) -> None:
    stated = copy.deepcopy(STATED)
    stated["chat"][key] = changes
    (problem,) = wrong_chat_counts(dataset, stated)
    assert problem.startswith(f"corpus.json states {key} of the split 'chat' as {changes}, the rows ")


def test_what_was_found_is_told_by_split() -> None:
    assert chat_findings({"chats": {"splits": STATED}}) == [
        "chat: examples with text of the evaluation set quiz: 3, dropped for it: 1",
        "chat: examples kept with personal data (email): 1, places: 2",
        "chat: examples kept and redacted: 1",
    ]
    assert chat_findings({"chats": {"splits": {"chat": {"num_rows": 3}}}}) == chat_findings({}) == []
