"""Reading conversations and preference pairs from local files: each row becomes an example, or a counted drop."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_recipes.chat_settings import ChatSource
from data_recipes.line_reader import open_stream, read_lines
from data_recipes.local_files import DatasetFile, pinned_path
from data_recipes.policy import LicencePolicy, decide_licence, normalise_spdx
from provenance.digests import tagged_digest
from provenance.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
MALFORMED = "malformed row"
NO_ANSWER = "no answer"
LICENCE = "licence"
EQUAL_ANSWERS = "chosen and rejected are equal"

_SURROGATE = re.compile("[\ud800-\udfff]")

Turn = tuple[str, str]
"""Role and content."""


@dataclass(frozen=True)
class ChatFindings:
    """What the rules on evaluation sets and personal data found in an example; its columns in `chats/`.

    Attributes:
        overlap: the largest share of one item's runs that stands in one of its sequences; 0 for none.
        hits: `{set, item, part, turn, start, end, num_runs}`: text that it shares with items.
        personal_data: `{kind, part, turn, start, end}`: places in its turns as they stood in the file.
        redacted_from: digest `chat/1` of the example before anything was redacted; empty where nothing was.
    """

    overlap: float = 0.0
    hits: tuple[dict[str, Any], ...] = ()
    personal_data: tuple[dict[str, Any], ...] = ()
    redacted_from: str = ""


NOTHING_FOUND = ChatFindings()


@dataclass(frozen=True)
class ChatExample:
    """One conversation, or one prompt with a chosen and a rejected answer.

    Attributes:
        key: digest `chat/1` of its source, its turns and which of them are trained.
        prompt: turns that are read and not trained.
        answers: turns of which those of the assistant are trained: one sequence, or the chosen and the rejected one.
    """

    key: str
    source: str
    split: str
    licence: str
    prompt: tuple[Turn, ...]
    answers: tuple[tuple[Turn, ...], ...]
    findings: ChatFindings = NOTHING_FOUND

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes two examples the same, whatever their sources."""
        return (self.prompt, self.answers)


def make_example(
    source: str, split: str, licence: str, prompt: tuple[Turn, ...], answers: tuple[tuple[Turn, ...], ...]
) -> ChatExample:
    """Return an example with the key of its turns, in which nothing was looked for yet."""
    key = tagged_digest("chat/1", {"source": source, "prompt": prompt, "answers": answers})
    return ChatExample(key, source, split, licence, prompt, answers)


def messages_of(turns: Iterable[Turn]) -> list[dict[str, str]]:
    """Turns as chat templates and data set files have them."""
    return [{"role": role, "content": content} for role, content in turns]


class _BadRow(Exception):
    """Why a row gives no example."""


def read_chats(
    source: ChatSource, file: DatasetFile, data_dir: Path, policy: LicencePolicy, dropped: Counter[str]
) -> Iterator[ChatExample]:
    """Yield the examples of a file of a source in the order of its rows.

    Args:
        dropped: counts rows that give none, by reason.

    Raises:
        SourceError: for a missing file or one of another digest.
        DataError: for a file that cannot be read.
    """
    path = pinned_path(file, data_dir, f"source {source.name!r}", f"a {source.format} file")
    for values in _rows(source, path):
        try:
            if not isinstance(values, dict):
                raise _BadRow(MALFORMED)
            yield _example(source, values, policy)
        except _BadRow as reason:
            dropped[str(reason)] += 1


def _rows(source: ChatSource, path: Path) -> Iterator[Any]:
    """Yield the rows of a file as JSON values; None for a row that is none."""
    try:
        if source.format == "parquet":
            for batch in pq.ParquetFile(path).iter_batches(1024):
                yield from batch.to_pylist()
            return
        for line in read_lines(open_stream(path), MAX_LINE_BYTES, 0):
            if line.data is None or line.data.strip():
                yield _parsed(line.data)
    except (OSError, pa.ArrowException, EOFError) as error:
        raise DataError(
            f"source {source.name!r}: the file cannot be read ({error})",
            expected=f"valid {source.format}",
            where=str(path),
        ) from None


def _parsed(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _example(source: ChatSource, values: dict[str, Any], policy: LicencePolicy) -> ChatExample:
    licence = _licence(source, values, policy)
    if source.kind == "messages":
        prompt: tuple[Turn, ...] = ()
        answers: tuple[tuple[Turn, ...], ...] = (_turns(values.get("messages"), "user"),)
    elif source.kind == "prompt-completion":
        prompt, answers = _turns(values.get("prompt"), "user"), (_turns(values.get("completion"), "assistant"),)
    else:
        chosen, rejected = (_turns(values.get(name), "assistant") for name in ("chosen", "rejected"))
        prompt = _turns(values["prompt"], "user") if values.get("prompt") is not None else _shared(chosen, rejected)
        answers = (_after(prompt, chosen), _after(prompt, rejected))
        if answers[0] == answers[1]:
            raise _BadRow(EQUAL_ANSWERS)
    if source.kind != "messages" and not prompt:
        raise _BadRow("no prompt")
    for answer in answers:
        if not answer or answer[-1][0] != "assistant" or not answer[-1][1].strip():
            raise _BadRow(NO_ANSWER)
    return make_example(source.name, source.split, licence, prompt, answers)


def _licence(source: ChatSource, values: dict[str, Any], policy: LicencePolicy) -> str:
    declared = source.licence.spdx if source.licence is not None else values.get(str(source.licence_column))
    decision = decide_licence(normalise_spdx(declared) if isinstance(declared, str) else "", policy, is_credited=False)
    if not decision.allowed:
        raise _BadRow(LICENCE)
    return decision.chosen


def _turns(value: Any, role_of_text: str) -> tuple[Turn, ...]:
    """Turns of a list of messages, or the one turn that a text stands for."""
    if isinstance(value, str):
        return (_turn(role_of_text, value),)
    if not isinstance(value, list) or not value:
        raise _BadRow(MALFORMED)
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise _BadRow(MALFORMED)
        turns.append(_turn(message.get("role"), message.get("content")))
    return tuple(turns)


def _turn(role: Any, content: Any) -> Turn:
    """A turn of two texts; lone surrogates, which JSON can spell, are none."""
    if not isinstance(role, str) or not isinstance(content, str) or _SURROGATE.search(role + content):
        raise _BadRow(MALFORMED)
    return role, content


def _after(prompt: tuple[Turn, ...], answer: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """An answer without the prompt, which some data sets repeat in it."""
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns with which both answers begin: their prompt where none is stated."""
    count = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        count += 1
    return chosen[:count]
