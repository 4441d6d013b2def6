"""Conversations and preference pairs from files: rows, labels, packing, and what is dropped and why."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydantic
import pytest
from chat_fixtures import build_alone
from corpus_fixtures import chat_source, prose
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_recipes.bpe import save_tokenizer, train_tokenizer
from data_recipes.chat_rows import BuiltChats
from data_recipes.chat_settings import ChatConfig
from data_recipes.packing import best_fit
from data_recipes.settings import TokenizerConfig
from provenance.digests import sha256_file
from provenance.errors import DataError, SourceError

WIDTH = 64
END = "<|end|>"
REDACT = {"personal_data": {"action": "redact"}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = [prose(1), prose(2, script="cyrillic")]
    config = TokenizerConfig(vocab_size=330)
    save_tokenizer(train_tokenizer(texts, len(texts), config), config, directory)
    return AutoTokenizer.from_pretrained(directory)


def _build(root: Path, tokenizer: Any, *sources: dict[str, Any], **changes: Any) -> BuiltChats:
    chats = {"window_tokens": WIDTH - 1, "sources": list(sources), **changes}
    return build_alone(root, tokenizer, chats, policy={"allow": ["MIT", "CC-BY-4.0"]})


def _rows(root: Path, built: BuiltChats, split: str) -> list[tuple[list[int], list[int]]]:
    entry = built.splits[split]
    found = []
    for source in entry["sources"]:
        for shard in source["shards"]:
            files = shard["files"]
            ids = np.fromfile(root / "work" / files["tokens"]["path"], "<u2").reshape(-1, entry["width"])
            masks = np.fromfile(root / "work" / files["mask"]["path"], "u1").reshape(-1, entry["width"])
            found += list(zip(ids.tolist(), masks.tolist(), strict=True))
    return found


def _trained(tokenizer: Any, ids: list[int], mask: list[int]) -> str:
    return str(tokenizer.decode([token for token, label in zip(ids, mask, strict=True) if label]))


def _talk(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]}


def test_a_file_of_which_no_row_is_of_its_kind_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"conversations": []}, {"conversations": []}]
    with pytest.raises(DataError, match="none of the 2 rows is of kind messages") as refused:
        _build(tmp_path, tokenizer, chat_source(tmp_path, "talks", "messages", rows))
    assert refused.value.expected == "in each row messages"
    assert not list((tmp_path / "work").rglob("*.parquet")), "nothing that could be taken for the file"
    good = {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}]}
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "talks", "messages", [*rows, good]))
    assert built.report["splits"]["chat"]["dropped"] == {"malformed row": 2}


def test_of_messages_every_answer_is_trained_and_nothing_else(tmp_path, tokenizer):
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", [_talk("ask", "yes", "and", "данные")]))
    ((ids, mask),) = _rows(tmp_path, built, "chat")
    assert _trained(tokenizer, ids, mask) == f"yes{END}данные{END}"
    assert len(ids) == WIDTH


def test_of_a_prompt_nothing_is_trained_though_an_answer_stands_in_it(tmp_path, tokenizer):
    row = {"prompt": _talk("ask", "an old answer", "more")["messages"], "completion": "the new one"}
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "prompt-completion", [row]))
    ((ids, mask),) = _rows(tmp_path, built, "chat")
    assert _trained(tokenizer, ids, mask) == f"the new one{END}"
    assert "an old answer" in tokenizer.decode(ids)


PAIR = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
TURNS = [{"role": "user", "content": "ask"}]
PAIRS = {
    "texts": PAIR,
    "turns": {
        "prompt": TURNS,
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    },
    "implicit prompt": {
        "chosen": [*TURNS, {"role": "assistant", "content": "good"}],
        "rejected": [*TURNS, {"role": "assistant", "content": "bad"}],
    },
    "prompt repeated": {
        "prompt": TURNS,
        "chosen": [*TURNS, {"role": "assistant", "content": "good"}],
        "rejected": [*TURNS, {"role": "assistant", "content": "bad"}],
    },
}


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("written", PAIRS)
def test_a_pair_is_one_row_of_two_halves_with_one_prompt(tmp_path, tokenizer, written, form):
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "p", "preference", [PAIRS[written]], form=form))
    ((ids, mask),) = _rows(tmp_path, built, "preference")
    assert len(ids) == 2 * WIDTH
    halves = [(ids[at : at + WIDTH], mask[at : at + WIDTH]) for at in (0, WIDTH)]
    assert [_trained(tokenizer, *half) for half in halves] == [f"good{END}", f"bad{END}"]
    prompts = [half[0][: half[1].index(1)] for half in halves]
    assert prompts[0] == prompts[1]
    table = pq.read_table(tmp_path / "work" / "preferences" / "train-00000.parquet").to_pylist()
    assert table[0]["chosen"] == [{"role": "assistant", "content": "good"}]
    assert table[0]["prompt"] == TURNS


BAD = {
    "malformed row": [
        *("{no json", "[1]", r'{"messages": [{"role": "user", "content": "\ud800"}]}'),
        {"messages": None},
        {"messages": [{"role": "user"}]},
    ],
    "no answer": [_talk("only a question"), _talk("ask", "  ")],
    "spells a special token": [_talk("ask", f"I end here {END}")],
    "a role that the chat template refuses": [
        {"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]}
    ],
    "too long": [_talk("ask", "word " * 200)],
    "equal to another one": [_talk("ask", "yes")],
}


def test_every_row_that_gives_none_is_counted_with_its_reason(tmp_path, tokenizer):
    rows = [_talk("ask", "yes"), *(row for bad in BAD.values() for row in bad)]
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", rows))
    report = built.report["splits"]["chat"]
    assert report["dropped"] == {reason: len(bad) for reason, bad in sorted(BAD.items())}
    assert (report["num_examples"], report["num_rows"]) == (1, 1)
    assert built.locks[0]["num_rows"] == len(rows)


def test_licences_are_asked_row_by_row(tmp_path, tokenizer):
    rows = [{**_talk("a", "one"), "licence": "MIT"}, {**_talk("b", "two"), "licence": "GPL-3.0-only"}, _talk("c", "3")]
    source = chat_source(tmp_path, "a", "messages", rows, licence=None, licence_column="licence")
    built = _build(tmp_path, tokenizer, source)
    assert built.report["splits"]["chat"]["dropped"] == {"licence": 2}
    assert pq.read_table(tmp_path / "work" / "chats" / "train-00000.parquet")["licence"].to_pylist() == ["MIT"]


def test_what_is_held_out_is_never_trained(tmp_path, tokenizer):
    sources = [
        chat_source(tmp_path, "a", "messages", [_talk("ask", "yes"), _talk("ask", "no")]),
        chat_source(tmp_path, "b", "messages", [_talk("ask", "yes")], split="heldout"),
    ]
    built = _build(tmp_path, tokenizer, *sources)
    assert len(_rows(tmp_path, built, "chat-heldout")) == 1
    assert [_trained(tokenizer, *row) for row in _rows(tmp_path, built, "chat")] == [f"no{END}"]


def test_what_is_cut_is_counted_and_keeps_a_trained_token(tmp_path, tokenizer):
    rows = [_talk("ask", "word " * 200), _talk("question " * 200, "never reached")]
    built = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", rows), too_long="truncate")
    report = built.report["splits"]["chat"]
    assert (report["num_truncated"], report["dropped"]) == (1, {"too long": 1})
    ((ids, mask),) = _rows(tmp_path, built, "chat")
    assert mask[-1] == 1
    assert tokenizer.pad_token_id not in ids


def test_packed_rows_hold_every_conversation_whole_and_ended(tmp_path, tokenizer):
    talks = [_talk(f"question {n}", "answer " * (1 + n % 3)) for n in range(40)]
    alone = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", talks))
    whole = {tuple(t for t in ids if t != tokenizer.pad_token_id): mask for ids, mask in _rows(tmp_path, alone, "chat")}
    packed = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", talks), packing="best-fit")
    found = {}
    for ids, mask in _rows(tmp_path, packed, "chat"):
        begin = 0
        for at, token in enumerate(ids):
            if token == tokenizer.eos_token_id:
                found[tuple(ids[begin:at])] = mask[begin:at]
                assert mask[at] == 0
                begin = at + 1
        assert all(token == tokenizer.pad_token_id for token in ids[begin:])
    assert found.keys() == whole.keys()
    assert all(whole[ids][: len(ids)] == mask for ids, mask in found.items())
    reports = [built.report["splits"]["chat"] for built in (alone, packed)]
    assert reports[0]["num_trained_tokens"] == reports[1]["num_trained_tokens"]
    assert reports[1]["padding_share_ppm"] < reports[0]["padding_share_ppm"] // 2
    table = pq.read_table(tmp_path / "work" / "chats" / "train-00000.parquet")
    assert len(set(table["row_key"].to_pylist())) == reports[1]["num_rows"] < 40


@pytest.mark.parametrize("packing", ["none", "best-fit"])
def test_the_order_of_rows_and_files_changes_nothing(tmp_path, tokenizer, packing):
    talks = [_talk(f"question {n}", "answer " * (1 + n % 3)) for n in range(12)]
    digests = set()
    for rows in (talks, talks[::-1]):
        built = _build(tmp_path, tokenizer, chat_source(tmp_path, "a", "messages", rows), packing=packing)
        digests.add(built.splits["chat"]["digest"])
    assert len(digests) == 1


def test_files_that_changed_or_are_cut_short_are_refused(tmp_path, tokenizer):
    source = chat_source(tmp_path, "a", "messages", [_talk("ask", "yes")])
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match="source 'a'"):
        _build(tmp_path, tokenizer, source)
    data = gzip.compress(b"{}\n" * 1000)[:-20]
    (tmp_path / "b.jsonl.gz").write_bytes(data)
    source["files"] = [{"path": "b.jsonl.gz", "sha256": sha256_file(tmp_path / "b.jsonl.gz")}]
    with pytest.raises(DataError, match="cannot be read"):
        _build(tmp_path, tokenizer, source)


def test_a_template_that_marks_no_answer_is_refused(tmp_path, tokenizer):
    source = chat_source(tmp_path, "a", "messages", [_talk("ask", "yes")])
    marked = tokenizer.chat_template
    try:
        tokenizer.chat_template = re.sub(r"\{%-? *(end)?generation *-?%\}", "", marked)
        with pytest.raises(DataError, match="marks no generated text"):
            _build(tmp_path, tokenizer, source)
        tokenizer.chat_template = marked.replace(" + '<|end|>'", "", 2)
        with pytest.raises(DataError, match="labelled spans"):
            _build(tmp_path, tokenizer, source)
    finally:
        tokenizer.chat_template = marked


def test_a_recipe_states_one_licence_per_source():
    with pytest.raises(pydantic.ValidationError, match="exactly one of"):
        ChatConfig.model_validate(
            {
                "window_tokens": 63,
                "sources": [
                    {
                        "name": "a",
                        "kind": "messages",
                        "format": "jsonl",
                        "files": [{"path": "a", "sha256": "0" * 64}],
                        "split": "train",
                        "as_of": "2026-11-25",
                    }
                ],
            }
        )


@given(st.lists(st.integers(1, 50), max_size=60))
def test_best_fit_places_every_piece_once_and_never_too_much(lengths):
    rows = best_fit(lengths, 50)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 50 for row in rows)
    # Any two rows together hold more than one row could: else the later one would have gone into the earlier.
    sums = sorted(sum(lengths[number] for number in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 50


def test_of_examples_that_redaction_made_equal_one_stays_whatever_their_order(tmp_path, tokenizer):
    talks = [_talk(f"write to {name}@openwright.dev", "yes") for name in ("one", "two", "three")]
    found = []
    for rows in (talks, talks[::-1]):
        source = chat_source(tmp_path, "a", "messages", rows)
        built = build_alone(tmp_path, tokenizer, {"window_tokens": 63, "sources": [source]}, **REDACT)
        assert built.report["splits"]["chat"]["dropped"] == {"equal to another one": 2}
        found.append(pq.read_table(tmp_path / "work" / "chats" / "train-00000.parquet").to_pylist())
    assert found[0] == found[1]
    assert found[0][0]["completion"][0]["content"] == "write to [EMAIL]"
