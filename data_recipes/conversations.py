"""Conversations for fine-tuning: a question about a documented function, its docstring's summary as the answer."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.chat_settings import Packing
from data_recipes.document import DocumentedFunction
from data_recipes.documents import KeptDocument, write_dataset
from data_recipes.packing import Labelled, RowShape, group, join
from data_recipes.settings import ConversationConfig, SpecialTokens
from data_recipes.shards import TokenSequence
from provenance.canonical import Json
from provenance.digests import tagged_digest
from provenance.errors import DataError

QUESTIONS = (
    "What does `{name}{signature}` do?",
    "Describe the function `{name}{signature}` in a sentence.",
    "In short, what is `{name}{signature}` for?",
    "Summarise `{name}{signature}`.",
)
"""Wordings of the question; the digest of a conversation chooses one."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTENCE_END = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "\u0964", "\u061f")  # also CJK, Devanagari, Arabic
_NOT_A_SENTENCE = re.compile(r">>>|::|^\W|^:|\.\.\s")


@dataclass(frozen=True)
class Conversation:
    """One question and answer with the document that it was made from."""

    document_id: str
    source: str
    licence: str
    split: str
    function: DocumentedFunction

    @property
    def conversation_id(self) -> str:
        """Digest `conversation/1` of the document and the function."""
        function = self.function
        return tagged_digest(
            "conversation/1",
            {
                "document_id": self.document_id,
                "qualified_name": function.qualified_name,
                "signature": function.signature,
                "summary": function.summary,
            },
        )

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns, as chat templates take them."""
        wording = QUESTIONS[int(self.conversation_id[:8], 16) % len(QUESTIONS)]
        question = wording.format(name=self.function.qualified_name, signature=self.function.signature)
        return [{"role": "user", "content": question}, {"role": "assistant", "content": self.function.summary}]


@dataclass(frozen=True)
class Conversations:
    """Kept conversations sorted by id, and how many functions gave none, by reason."""

    kept: tuple[Conversation, ...]
    num_functions: int
    dropped: dict[str, int]


def make_conversations(
    documents: Iterable[tuple[KeptDocument, Sequence[DocumentedFunction]]],
    config: ConversationConfig,
    special_tokens: SpecialTokens,
) -> Conversations:
    """Make conversations from the documented functions of kept documents.

    Of several functions with the same summary one stays: a held-out one before others, else the smallest id.
    """
    dropped: Counter[str] = Counter()
    found: list[Conversation] = []
    num_functions = 0
    for document, functions in documents:
        for function in functions:
            num_functions += 1
            reason = unfit_reason(function, config, special_tokens)
            if reason:
                dropped[reason] += 1
                continue
            found.append(
                Conversation(document.document_id, document.source, document.licence, document.split, function)
            )
    by_id = {conversation.conversation_id: conversation for conversation in found}
    ordered = sorted(by_id.items(), key=lambda item: (item[1].split != "heldout", item[0]))
    by_summary: dict[str, tuple[str, Conversation]] = {}
    for conversation_id, conversation in ordered:
        by_summary.setdefault(conversation.function.summary.casefold(), (conversation_id, conversation))
    kept = tuple(conversation for _, conversation in sorted(by_summary.values(), key=lambda item: item[0]))
    if len(kept) != len(found):
        dropped["same summary as another function"] = len(found) - len(kept)
    return Conversations(kept, num_functions, dict(dropped))


def unfit_reason(function: DocumentedFunction, config: ConversationConfig, special_tokens: SpecialTokens) -> str:
    """Return why a function gives no conversation; empty where it gives one."""
    if not is_sentence(function.summary):
        return "summary is not a sentence"
    if len(function.summary.split()) < config.min_summary_words or len(function.summary) > config.max_summary_chars:
        return "summary too short or too long"
    if len(function.signature) > config.max_signature_chars:
        return "signature too long"
    if any(token in function.signature or token in function.summary for token in special_tokens.in_order()):
        return "spells a special token"
    return ""


def is_sentence(text: str) -> bool:
    """Whether a text reads as a sentence: begins with a letter that is not lower case, ends with a full stop."""
    return bool(text) and text[0].isalpha() and not text[0].islower() and (
        text.endswith(_SENTENCE_END) and not _NOT_A_SENTENCE.search(text)
    )  # fmt: skip


def write_conversations(conversations: Iterable[Conversation], row_keys: Mapping[str, str], path: Path) -> None:
    """Write conversations as a data set file, with the parts that a question can be rebuilt from.

    Args:
        row_keys: key of the row that each conversation became, by its id; those without one became none.
    """
    import datasets  # heavy, and not needed by the processes that read sources

    text = datasets.Value("string")
    columns: dict[str, Any] = dict.fromkeys(("conversation_id", "document_id", "source", "licence"), text)
    columns["messages"] = datasets.List({"role": text, "content": text})
    columns |= dict.fromkeys(("qualified_name", "signature", "summary", "row_key"), text)
    rows = [
        {
            "conversation_id": conversation.conversation_id,
            "document_id": conversation.document_id,
            "source": conversation.source,
            "licence": conversation.licence,
            "messages": conversation.messages,
            "qualified_name": conversation.function.qualified_name,
            "signature": conversation.function.signature,
            "summary": conversation.function.summary,
            "row_key": row_keys.get(conversation.conversation_id, ""),
        }
        for conversation in conversations
    ]
    write_dataset(rows, columns, path)


@dataclass(frozen=True)
class EncodedRows:
    """Conversations as rows of fixed width, and what the labels amount to.

    Attributes:
        row_keys: key of the row that each conversation became, by its id.
    """

    rows: tuple[TokenSequence, ...]
    row_keys: dict[str, str]
    num_too_long: int
    num_trained_tokens: int
    num_padding_tokens: int

    def report(self, width: int) -> Json:
        """Return the numbers that `corpus.json` holds; shares are in parts per million."""
        num_tokens = len(self.rows) * width
        return {
            "num_conversations": len(self.row_keys),
            "num_rows": len(self.rows),
            "num_dropped_too_long": self.num_too_long,
            "num_truncated": 0,
            "num_tokens": num_tokens,
            "num_trained_tokens": self.num_trained_tokens,
            "num_padding_tokens": self.num_padding_tokens,
            "trained_share_ppm": 1_000_000 * self.num_trained_tokens // num_tokens if num_tokens else 0,
        }


def require_marks(tokenizer: Any) -> None:
    """Refuse a chat template that does not say what the assistant generates: labels are taken from that."""
    if not _GENERATION.search(tokenizer.chat_template or ""):
        raise DataError(
            "the chat template marks no generated text",
            expected="answers between {% generation %} and {% endgeneration %}",
            where="tokenizer/chat_template.jinja",
        )


def encode_conversations(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    special_tokens: SpecialTokens,
    width: int,
    packing: Packing = "none",
) -> EncodedRows:
    """Render conversations through the tokenizer's chat template and label the assistant's tokens.

    Labels are built here, once: 1 on the answer and its end token, 0 on everything else. A conversation that does
    not fit the row is dropped and counted, never cut.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        width: tokens per row.
        packing: whether conversations share rows.

    Raises:
        DataError: for a template without generation markers, or labels that do not end with the end token.
    """
    require_marks(tokenizer)
    names = [special_tokens.end, special_tokens.pad, special_tokens.end_of_text]
    end_id, pad_id, eos_id = tokenizer.convert_tokens_to_ids(names)
    if end_id == pad_id:
        raise DataError("the stop token is the padding token", expected="two tokens", where="tokenizer")
    encoded: list[tuple[Conversation, Labelled]] = []
    num_too_long = 0
    for start in range(0, len(conversations), 1000):
        batch = conversations[start : start + 1000]
        rendered = tokenizer.apply_chat_template(
            [conversation.messages for conversation in batch], return_dict=True, return_assistant_tokens_mask=True
        )
        for conversation, ids, labels in zip(batch, rendered["input_ids"], rendered["assistant_masks"], strict=True):
            if len(ids) > width:
                num_too_long += 1
                continue
            check_labels(ids, labels, end_id, conversation.conversation_id)
            encoded.append((conversation, Labelled(list(ids), list(labels))))
    return _in_rows(encoded, RowShape(width, pad_id, eos_id), packing, num_too_long)


def _in_rows(
    encoded: Sequence[tuple[Conversation, Labelled]], shape: RowShape, packing: Packing, num_too_long: int
) -> EncodedRows:
    rows: list[TokenSequence] = []
    row_keys: dict[str, str] = {}
    num_trained = num_padding = 0
    sequences = [(conversation.source, sequence) for conversation, sequence in encoded]
    for numbers in group(sequences, shape.width, packing):
        ids, mask = join([encoded[number][1] for number in numbers], shape, packing)
        members = [encoded[number][0].conversation_id for number in numbers]
        key = row_key(members)
        rows.append(TokenSequence(key, encoded[numbers[0]][0].source, ids, mask))
        row_keys.update(dict.fromkeys(members, key))
        num_trained += int(mask.sum())
        num_padding += int((ids == shape.pad_id).sum())
    return EncodedRows(tuple(rows), row_keys, num_too_long, num_trained, num_padding)


def row_key(members: Sequence[str]) -> str:
    """Key of a row: that of its one member, or digest `packed/1` of those that share it."""
    return members[0] if len(members) == 1 else tagged_digest("packed/1", list(members))


def check_labels(ids: Sequence[int], labels: Sequence[int], end_id: int, where: str) -> None:
    """Refuse labels that train nothing, train the first token, or whose last span does not end with the end token."""
    trained = [place for place, label in enumerate(labels) if label]
    if not trained or trained[0] == 0:
        raise DataError("no token is trained, or the first one is", expected="the answer alone", where=where)
    span_ends = [place for place in trained if place + 1 == len(labels) or not labels[place + 1]]
    if any(ids[place] != end_id for place in span_ends):
        raise DataError("a trained span does not end with the stop token", expected=f"token {end_id}", where=where)
