"""Step `chats`: one file of conversations or pairs becomes examples that the rules were applied to, in scratch."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_recipes.build import Build
from data_recipes.chat_files import (
    MALFORMED,
    NOTHING_FOUND,
    ChatExample,
    ChatFindings,
    Turn,
    messages_of,
    read_chats,
)
from data_recipes.chat_rules import ChatRules
from data_recipes.chat_settings import COLUMNS, ChatConfig, ChatSource, rows_split
from data_recipes.compare_steps import evaluation_index
from data_recipes.part_files import TableWriter, read_columns
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH, Outputs, TaskRecord
from provenance.canonical import Json
from provenance.errors import DataError

_TURN = pa.struct([("role", pa.string()), ("content", pa.large_string())])
_PLACE = (("part", pa.string()), ("turn", pa.int64()), ("start", pa.int64()), ("end", pa.int64()))
_HIT = pa.struct([("set", pa.string()), ("item", pa.string()), *_PLACE, ("num_runs", pa.int64())])
_SPAN = pa.struct([("kind", pa.string()), *_PLACE])
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("chat_id", "licence", "rule")),
        ("prompt", pa.list_(_TURN)),
        ("answers", pa.list_(pa.list_(_TURN))),
        ("overlap", pa.float64()),
        ("hits", pa.list_(_HIT)),
        ("personal_data", pa.list_(_SPAN)),
        ("redacted_from", pa.string()),
    ]
)
"""An example per row; one that a rule dropped has no turns."""
_GROUP_ROWS = 1024


@dataclass(frozen=True)
class DroppedChat:
    """An example that a rule on evaluation sets or personal data dropped; its text is not kept.

    Attributes:
        split: of the rows that it would have become.
    """

    chat_id: str
    source: str
    split: str
    rule: str
    findings: ChatFindings


@dataclass
class ReadChats:
    """What was read of a source.

    Attributes:
        num_rows: rows of its files, those that gave no example too.
        dropped: number of those that gave none, by reason.
    """

    source: ChatSource
    num_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: list[ChatExample] = field(default_factory=list)
    by_rules: list[DroppedChat] = field(default_factory=list)


def chat_values(config: ChatConfig, heldout: Sequence[int]) -> list[Json]:
    """Return what the step is called with, file by file; `heldout` as of the step `contamination`."""
    files = [(source.name, place) for source in _in_order(config) for place in range(len(source.files))]
    return [
        {"number": number, "source": name, "file": place, "heldout": list(heldout)}
        for number, (name, place) in enumerate(files)
    ]


def read_chat_file(build: Build, value: Json, outputs: Outputs) -> Json:
    """Read a file of a source; `value` is `{number, source, file, heldout}`, a file by its place.

    Returns:
        `{dropped}`: number of rows that gave no example, by reason.

    Raises:
        SourceError, DataError: as `read_chats`, and as `read_evaluation_set`; DataError for a file of another kind.
    """
    config = build.config
    assert config.chats is not None
    (source,) = (source for source in config.chats.sources if source.name == value["source"])
    rules = _rules(build, source, value["heldout"])
    file = source.files[value["file"]]
    dropped: Counter[str] = Counter()
    pending: list[dict[str, Any]] = []
    with (
        outputs.file(_path(value["number"])) as path,
        TableWriter(path, _SCHEMA, group_rows=_GROUP_ROWS) as writer,
    ):
        for example in read_chats(source, file, config.execution.data_dir.expanduser(), config.policy, dropped):
            pending.append(_row(*rules.judge(example)))
            if len(pending) == _GROUP_ROWS:
                writer.write(pa.Table.from_pylist(pending, schema=_SCHEMA))
                pending.clear()
        writer.write(pa.Table.from_pylist(pending, schema=_SCHEMA))
        if writer.num_rows == 0 and set(dropped) == {MALFORMED}:
            raise DataError(
                f"source {source.name!r}: none of the {dropped[MALFORMED]:,} rows is of kind {source.kind}",
                expected=f"in each row {' and '.join(COLUMNS[source.kind])}",
                where=file.path,
                next_command="set kind to what the rows are, or remove the file from the recipe",
            )
    return {"dropped": dict(sorted(dropped.items()))}


def stored_chats(root: Path, config: CorpusConfig, records: Sequence[TaskRecord]) -> Iterator[ReadChats]:
    """Yield what the step wrote, source by source in the order of their names.

    Args:
        records: of the step, in the order of `chat_values`.
    """
    assert config.chats is not None
    number = 0
    for source in _in_order(config.chats):
        read = ReadChats(source)
        for record in records[number : number + len(source.files)]:
            read.dropped.update(record.report["dropped"])
            for table in read_columns(root / _path(number), _SCHEMA.names):
                _take(read, table.to_pylist())
            number += 1
        read.num_rows = len(read.kept) + sum(read.dropped.values())
        yield read


def _take(read: ReadChats, rows: Sequence[Mapping[str, Any]]) -> None:
    source = read.source
    for row in rows:
        hits, spans = tuple(row["hits"]), tuple(row["personal_data"])
        findings = ChatFindings(row["overlap"], hits, spans, row["redacted_from"]) if hits or spans else NOTHING_FOUND
        if row["rule"]:
            split = rows_split(source.kind, source.split)
            read.by_rules.append(DroppedChat(row["chat_id"], source.name, split, row["rule"], findings))
            read.dropped[row["rule"]] += 1
            continue
        prompt, *answers = (_turns(part) for part in (row["prompt"], *row["answers"]))
        key, licence = row["chat_id"], row["licence"]
        read.kept.append(ChatExample(key, source.name, source.split, licence, prompt, tuple(answers), findings))


def _in_order(config: ChatConfig) -> list[ChatSource]:
    return sorted(config.sources, key=lambda source: source.name)


def _rules(build: Build, source: ChatSource, heldout: Sequence[int]) -> ChatRules:
    config = build.config
    is_compared = config.decontamination is not None and source.split != "heldout"
    index = evaluation_index(build, heldout) if is_compared else None
    return ChatRules(config.personal_data, config.quality, config.decontamination, index)


def _row(example: ChatExample, rule: str) -> dict[str, Any]:
    found = example.findings
    return {
        "chat_id": example.key,
        "licence": example.licence,
        "rule": rule,
        "prompt": None if rule else messages_of(example.prompt),
        "answers": None if rule else [messages_of(answer) for answer in example.answers],
        "overlap": found.overlap,
        "hits": list(found.hits),
        "personal_data": list(found.personal_data),
        "redacted_from": found.redacted_from,
    }


def _turns(messages: Sequence[Mapping[str, str]]) -> tuple[Turn, ...]:
    # All examples are in memory: each role is there once.
    return tuple((sys.intern(message["role"]), message["content"]) for message in messages)


def _path(number: int) -> str:
    return f"{SCRATCH}/chats/{number:05d}.parquet"
