"""Rows for fine-tuning on conversations and on preference pairs, with labels that are made once, stored and hashed.

A row of the split `chat` is a conversation, or several; labels are 1 on the assistant's turns that are trained, the
token that ends each of them included. A row of the split `preference` is the chosen sequence, padded to half the row,
and then the rejected one; both begin with the same prompt.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from data_recipes.chat_files import ChatExample, messages_of
from data_recipes.chat_settings import ChatConfig, Packing, rows_split
from data_recipes.chat_step import DroppedChat, ReadChats
from data_recipes.chat_table import write_dropped, write_examples
from data_recipes.conversations import require_marks, row_key
from data_recipes.packing import Labelled, RowShape, group, join
from data_recipes.rule_settings import CONTAMINATED
from data_recipes.shards import TokenSequence, token_dtype, write_split
from provenance.canonical import Json
from provenance.errors import DataError

TOO_LONG = "too long"
DUPLICATE = "equal to another one"
ROLE = "a role that the chat template refuses"
SPECIAL = "spells a special token"


_Encoded = tuple[ChatExample, tuple[Labelled, ...]]


Counted = defaultdict[str, Counter[str]]


def _sorted(counted: Counted) -> dict[str, Json]:
    return {name: dict(counts) for name, counts in sorted(counted.items())}


@dataclass
class SplitReport:
    """What became of the examples of one split.

    Attributes:
        personal_data: by kind, examples that became rows in which there was some, and places in them.
        contamination: by evaluation set, examples that became rows and share text with it, and others dropped for it.
    """

    num_examples: int = 0
    num_rows: int = 0
    num_truncated: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_padding_tokens: int = 0
    num_redacted: int = 0
    personal_data: Counted = field(default_factory=lambda: defaultdict(Counter))
    contamination: Counted = field(default_factory=lambda: defaultdict(Counter))
    dropped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Json]:
        """Return the numbers that `corpus.json` holds; shares are in parts per million of all tokens."""
        total = max(self.num_tokens, 1)
        return {
            "num_examples": self.num_examples,
            "num_rows": self.num_rows,
            "num_truncated": self.num_truncated,
            "num_tokens": self.num_tokens,
            "num_trained_tokens": self.num_trained_tokens,
            "num_padding_tokens": self.num_padding_tokens,
            "trained_share_ppm": 1_000_000 * self.num_trained_tokens // total,
            "padding_share_ppm": 1_000_000 * self.num_padding_tokens // total,
            "num_redacted": self.num_redacted,
            "personal_data": _sorted(self.personal_data),
            "contamination": _sorted(self.contamination),
            "dropped": dict(sorted(self.dropped.items())),
        }

    def count_kept(self, example: ChatExample) -> None:
        """Count what was found in an example that became a row."""
        found = example.findings
        self.num_redacted += bool(found.redacted_from)
        for kind, num_places in Counter(span["kind"] for span in found.personal_data).items():
            self.personal_data[kind].update(num_examples=1, num_places=num_places)
        for name in {hit["set"] for hit in found.hits}:
            self.contamination[name].update(num_examples=1, num_dropped=0)

    def count_dropped(self, dropped: DroppedChat) -> None:
        """Count an example that a rule dropped, under each set that it shares text with where that is why."""
        if dropped.rule == CONTAMINATED:
            for name in {hit["set"] for hit in dropped.findings.hits}:
                self.contamination[name].update(num_examples=0, num_dropped=1)


@dataclass(frozen=True)
class BuiltChats:
    """What was written: entries of `tokens.json` and of `sources.lock`, and the part of `corpus.json`."""

    splits: dict[str, Json]
    locks: list[dict[str, Json]]
    report: dict[str, Json]


def build_chats(
    config: ChatConfig, found: Iterable[ReadChats], tokenizer: Any, data_dir: Path, work: Path, num_shards: int
) -> BuiltChats:
    """Write rows, and the examples themselves as data sets in `chats/` and `preferences/`.

    Args:
        found: what was read of all sources.
        tokenizer: a transformers tokenizer whose chat template marks what the assistant generates.
        work: the corpus directory.

    Raises:
        DataError: for a template without marks.
    """
    reports: dict[str, SplitReport] = {}
    locks: list[dict[str, Json]] = []
    examples: dict[str, list[ChatExample]] = {}
    dropped: list[DroppedChat] = []
    for read in found:
        source = read.source
        name = rows_split(source.kind, source.split)
        report = reports.setdefault(name, SplitReport())
        report.dropped.update(read.dropped)
        for one in read.by_rules:
            report.count_dropped(one)
        sizes = {file.path: (data_dir / file.path).stat().st_size for file in source.files}
        locks.append(source.lock_entry(read.num_rows, sizes))
        examples.setdefault(name, []).extend(read.kept)
        dropped += read.by_rules
    splits: dict[str, Json] = {}
    encoder = ChatEncoder(tokenizer, config.window_tokens + 1, can_cut=config.too_long == "truncate")
    for name, of_split in _without_repeats(examples, reports).items():
        rows, written = _rows_of(name, of_split, encoder, reports[name], config.packing)
        write_examples(name, written, work)
        if rows:
            width = len(rows[0].ids)
            splits[name] = write_split(
                work, name, rows, layout="rows", width=width, dtype=token_dtype(len(tokenizer)), num_shards=num_shards
            )
    write_dropped(dropped, work)
    described = {name: report.as_json() for name, report in sorted(reports.items())}
    return BuiltChats(splits, locks, {"packing": config.packing, "too_long": config.too_long, "splits": described})


def _without_repeats(
    examples: dict[str, list[ChatExample]], reports: dict[str, SplitReport]
) -> dict[str, list[ChatExample]]:
    """One of equal examples of a kind stays: a held-out one before others, else the smallest key."""
    kept: dict[str, list[ChatExample]] = {}
    for kind in ("chat", "preference"):
        seen: set[Any] = set()
        for name in (f"{kind}-heldout", kind):
            for example in sorted(examples.get(name, ()), key=lambda one: (one.key, one.findings.redacted_from)):
                if example.content in seen:
                    reports[name].dropped[DUPLICATE] += 1
                else:
                    seen.add(example.content)
                    kept.setdefault(name, []).append(example)
    return kept


class ChatEncoder:
    """Renders turns through a chat template and labels what is trained.

    Args:
        width: tokens that a sequence may have.
        can_cut: whether one that is longer is cut at its end; else it is dropped.

    Raises:
        DataError: for a template that marks no generated text, or a tokenizer without the tokens that rows need.
    """

    def __init__(self, tokenizer: Any, width: int, *, can_cut: bool) -> None:
        require_marks(tokenizer)
        pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        if pad_id is None or eos_id is None or pad_id == eos_id:
            raise DataError("no padding token of its own", expected="two tokens: padding and end of text")
        self.shape = RowShape(width, pad_id, eos_id)
        self._tokenizer, self._can_cut = tokenizer, can_cut
        self._special = [str(token) for token in tokenizer.all_special_tokens]
        self._special_ids = set(tokenizer.all_special_ids)

    def encode(self, example: ChatExample) -> tuple[Labelled, ...] | str:
        """The labelled sequences of an example, or why it has none."""
        turns = [*example.prompt, *(turn for answer in example.answers for turn in answer)]
        if any(token in content for _, content in turns for token in self._special):
            return SPECIAL
        sequences = []
        for answer in example.answers:
            labelled = self._encode(example.prompt, answer)
            if isinstance(labelled, str):
                return labelled
            sequences.append(labelled)
        return tuple(sequences)

    def _encode(self, prompt: Sequence[tuple[str, str]], answer: Sequence[tuple[str, str]]) -> Labelled | str:
        messages = messages_of((*prompt, *answer))
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, return_dict=True, return_assistant_tokens_mask=True
            )
        except TemplateError:
            return ROLE
        ids, labels = list(rendered["input_ids"]), list(rendered["assistant_masks"])
        self._check(ids, labels, sum(message["role"] == "assistant" for message in messages))
        _clear_spans(labels, sum(role == "assistant" for role, _ in prompt))
        width = self.shape.width
        if len(ids) <= width:
            return Labelled(ids, labels)
        if not self._can_cut or not any(labels[:width]):
            return TOO_LONG
        return Labelled(ids[:width], labels[:width], is_cut=True)

    def _check(self, ids: Sequence[int], labels: Sequence[int], num_answers: int) -> None:
        """Refuse labels that do not hold one span for each answer, each with a special token at its end."""
        ends = [at for at, label in enumerate(labels) if label and (at + 1 == len(labels) or not labels[at + 1])]
        if labels[:1] == [1] or len(ends) != num_answers or any(ids[at] not in self._special_ids for at in ends):
            raise DataError(
                f"{len(ends)} labelled spans for {num_answers} answers",
                expected="one for each answer of the assistant, with the token that ends it",
                where="tokenizer/chat_template.jinja",
            )


def _clear_spans(labels: list[int], count: int) -> None:
    """Take the labels off the first spans: those of a prompt."""
    at = 0
    for _ in range(count):
        at = labels.index(1, at)
        while at < len(labels) and labels[at]:
            labels[at] = 0
            at += 1


def _rows_of(
    name: str, examples: Iterable[ChatExample], encoder: ChatEncoder, report: SplitReport, packing: Packing
) -> tuple[list[TokenSequence], list[tuple[ChatExample, str]]]:
    """Rows of a split, and its examples each with the key of its row."""
    encoded: list[_Encoded] = []
    for example in examples:
        found = encoder.encode(example)
        if isinstance(found, str):
            report.dropped[found] += 1
        else:
            encoded.append((example, found))
            report.num_truncated += any(sequence.is_cut for sequence in found)
            report.count_kept(example)
    report.num_examples = len(encoded)
    is_pair = name.startswith("preference")
    shape = encoder.shape
    rows, written = [], []
    sequences = [(example.source, parts[0]) for example, parts in encoded]
    for numbers in group(sequences, shape.width, "none" if is_pair else packing):
        members = [encoded[number] for number in numbers]
        parts = [part for _, of_example in members for part in of_example]
        row = _paired(parts, shape) if is_pair else join(parts, shape, packing)
        key = row_key([example.key for example, _ in members])
        rows.append(TokenSequence(key, members[0][0].source, row[0], row[1]))
        written += [(example, key) for example, _ in members]
        report.num_trained_tokens += int(row[1].sum())
        report.num_padding_tokens += int((row[0] == shape.pad_id).sum())
        report.num_tokens += len(row[0])
    report.num_rows = len(rows)
    return rows, sorted(written, key=lambda item: item[0].key)


def _paired(parts: Sequence[Labelled], shape: RowShape) -> tuple[Any, Any]:
    """The chosen and the rejected sequence, each padded to half the row."""
    halves = [join([part], shape, "none") for part in parts]
    return np.concatenate([ids for ids, _ in halves]), np.concatenate([labels for _, labels in halves])
