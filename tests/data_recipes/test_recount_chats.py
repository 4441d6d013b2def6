"""Examples from files, counted again: what was dropped before it was compared, held-out ones, and older tables."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_recipes.chat_files import EQUAL_ANSWERS, ChatFindings, make_example
from data_recipes.chat_step import DroppedChat
from data_recipes.chat_table import write_dropped, write_examples
from data_recipes.filters import QualityRules
from data_recipes.recount_chats import ChatCount, count_chats
from data_recipes.rule_settings import DecontaminationRules

PLACE = {"part": "completion", "turn": 0, "start": 0, "end": 9}
FOUND = ChatFindings(0.5, ({"set": "quiz", "item": "7", **PLACE, "num_runs": 2},), ({"kind": "email", **PLACE},))
RULES = DecontaminationRules(max_item_overlap=0.2)


def _count(root: Path, limit: int | None, rules: DecontaminationRules | None) -> tuple[ChatCount, ...]:
    return count_chats(root, QualityRules(max_num_emails=limit), rules)


def test_what_was_dropped_before_it_was_compared_is_counted_as_such(tmp_path: Path) -> None:
    example = make_example("a", "heldout", "MIT", (), ((("user", "ask"), ("assistant", "yes")),))
    write_examples("chat-heldout", [(replace(example, findings=FOUND), example.key)], tmp_path)
    unlike = replace(FOUND, overlap=0.0, hits=())
    dropped = [("chat", "max_num_emails", unlike), ("preference", "max_item_overlap", FOUND)]
    dropped += [("preference", EQUAL_ANSWERS, unlike), ("chat-heldout", "max_num_emails", unlike)]
    write_dropped([DroppedChat("0" * 64, "a", *one) for one in dropped], tmp_path)

    chat, heldout, preference = _count(tmp_path, 1, RULES)
    assert (chat.kept_before, chat.kept_after, chat.num_not_compared) == (0, 1, 1)
    assert (heldout.kept_before, heldout.kept_after, heldout.num_not_compared) == (1, 2, 0)
    assert preference.dropped_after == {"max_item_overlap": 1, EQUAL_ANSWERS: 1}
    assert [one.num_not_compared for one in _count(tmp_path, None, None)] == [0, 0, 0]
    assert [one.kept_after for one in _count(tmp_path, 0, None)] == [0, 0, 0]
    assert [one.kept_after for one in _count(tmp_path, 1, DecontaminationRules(max_item_overlap=0.5))] == [1, 2, 1]


def test_a_corpus_that_does_not_say_is_not_counted(tmp_path: Path) -> None:
    assert _count(tmp_path, 0, RULES) == ()
    (tmp_path / "chats").mkdir()
    pq.write_table(pa.table({"chat_id": ["0" * 64]}), tmp_path / "chats" / "train-00000.parquet")
    assert _count(tmp_path, 0, RULES) == ()
