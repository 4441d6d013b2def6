"""The tables of conversations and preference pairs from files: those that became rows, and those that rules dropped."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_recipes.chat_files import ChatExample, ChatFindings, messages_of
from data_recipes.chat_settings import DROPPED_CHATS, PROMPT, parts_of
from data_recipes.chat_step import DroppedChat
from data_recipes.documents import write_dataset


def write_examples(name: str, examples: Sequence[tuple[ChatExample, str]], work: Path) -> None:
    """Write the examples of a split that became rows, each with the key of its row, as a data set file."""
    import datasets  # heavy, and not needed by the processes that read sources

    text = datasets.Value("string")
    turns = datasets.List({"role": text, "content": text})
    is_pair = name.startswith("preference")
    names = parts_of(is_pair=is_pair)
    columns: dict[str, Any] = dict.fromkeys(("chat_id", "source", "licence", "row_key"), text)
    columns |= dict.fromkeys((PROMPT, *names), turns)
    rows = [
        {
            "chat_id": example.key,
            "source": example.source,
            "licence": example.licence,
            "row_key": key,
            PROMPT: messages_of(example.prompt),
            **dict(zip(names, map(messages_of, example.answers), strict=True)),
            **_found(example.findings),
        }
        for example, key in examples
    ]
    folder = "preferences" if is_pair else "chats"
    split = "heldout" if name.endswith("-heldout") else "train"
    write_dataset(rows, columns | _found_columns(), work / folder / f"{split}-00000.parquet")


def write_dropped(dropped: Iterable[DroppedChat], work: Path) -> None:
    """Write the examples that rules dropped, sorted by id; no file where there is none."""
    rows = [
        {"chat_id": one.chat_id, "source": one.source, "split": one.split, "rule": one.rule, **_found(one.findings)}
        for one in sorted(dropped, key=lambda one: (one.chat_id, one.findings.redacted_from))
    ]
    if rows:
        columns = dict.fromkeys(("chat_id", "source", "split", "rule"), "string")
        write_dataset(rows, {**columns, **_found_columns()}, work / DROPPED_CHATS / "dropped-00000.parquet")


def _found_columns() -> dict[str, Any]:
    import datasets  # heavy, as above

    text, number = datasets.Value("string"), datasets.Value("int64")
    place = {"part": text, "turn": number, "start": number, "end": number}
    return {
        "contamination": datasets.Value("float64"),
        "contamination_hits": datasets.List({"set": text, "item": text, **place, "num_runs": number}),
        "personal_data": datasets.List({"kind": text, **place}),
        "redacted_from": text,
    }


def _found(findings: ChatFindings) -> dict[str, Any]:
    return {
        "contamination": findings.overlap,
        "contamination_hits": list(findings.hits),
        "personal_data": list(findings.personal_data),
        "redacted_from": findings.redacted_from,
    }
