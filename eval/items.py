"""Items of our three tasks, made from held-out projects only; the same corpus and seed give the same items.

Which documents and items are drawn, which distractors stand beside an answer and in what order is decided by
digests, never by a random stream, so that a reader can check every choice. Every item names its document, source
and licence.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.heldout import HeldoutDocument, HeldoutFunction, normalise
from eval.settings import BitsPerByteConfig, ClozeConfig, DocstringChoiceConfig
from provenance.canonical import Json
from provenance.digests import tagged_digest

NUM_CHOICES = 4
_NUM_SIMILAR = 12
"""Distractors are drawn among this many candidates that are most like the answer."""

_SENTENCE = re.compile(r"[^.!?\n]+(?:\n(?!\s*\n)[^.!?\n]+)*[.!?](?=\s|$)")
_LAST_WORD = re.compile(r"\s(\w+)[.!?]$")
_WORD = re.compile(r"\w+")
_MIN_WORD_CHARACTERS = 3
_MIN_SENTENCE_CHARACTERS = 30
_MAX_LENGTH_DIFFERENCE = 2
_MAX_FREQUENCY_DIFFERENCE = 2


def draw_key(seed: int, *parts: str) -> str:
    """Digest `evaluation-draw/1` by which items are put in order."""
    return tagged_digest("evaluation-draw/1", {"seed": seed, "parts": list(parts)})


def text_items(documents: Sequence[HeldoutDocument], config: BitsPerByteConfig, seed: int) -> list[Json]:
    """Documents for bits per byte: drawn by digest, cut to a number of characters."""
    long_enough = [document for document in documents if len(document.text) >= config.min_characters]
    long_enough.sort(key=lambda document: draw_key(seed, "text", document.document_id))
    return [
        {
            "item_id": document.document_id,
            "document_id": document.document_id,
            "source": document.source,
            "licence": document.licence,
            "text": document.text[: config.max_characters],
        }
        for document in long_enough[: config.max_documents]
    ]


def docstring_items(functions: Sequence[HeldoutFunction], config: DocstringChoiceConfig, seed: int) -> list[Json]:
    """Questions for the docstring choice: the summary of a function among those of three others of its project.

    A distractor is never the answer, in any spelling of case or white space, nor the summary of a function of the
    same name; among those left, the closest in length are taken. Answers stand in each place equally often.
    """
    by_source: dict[str, list[HeldoutFunction]] = defaultdict(list)
    for function in functions:
        if config.min_summary_characters <= len(function.summary) <= config.max_summary_characters:
            by_source[function.source].append(function)
    drawn = [function for candidates in by_source.values() for function in candidates]
    drawn.sort(key=lambda function: draw_key(seed, "docstring", function.conversation_id))
    items: list[Json] = []
    for function in drawn:
        distractors = _other_summaries(function, by_source[function.source], seed)
        if len(distractors) == NUM_CHOICES - 1:
            choices, answer = _place(function.summary, distractors, len(items))
            items.append(
                {
                    "item_id": function.conversation_id,
                    "document_id": function.document_id,
                    "source": function.source,
                    "licence": function.licence,
                    "prompt": _call(function),
                    "question": function.question,
                    "choices": choices,
                    "answer": answer,
                }
            )
        if len(items) == config.max_items + config.num_fewshot:
            break
    return items


def _other_summaries(function: HeldoutFunction, candidates: Sequence[HeldoutFunction], seed: int) -> list[str]:
    name = function.qualified_name.rpartition(".")[2]
    answer = normalise(function.summary)
    others: dict[str, str] = {}
    for candidate in candidates:
        key = normalise(candidate.summary)
        if key != answer and candidate.qualified_name.rpartition(".")[2] != name:
            others.setdefault(key, candidate.summary)
    by_length = sorted(others.values(), key=lambda text: (abs(len(text) - len(function.summary)), text))
    similar = by_length[:_NUM_SIMILAR]
    similar.sort(key=lambda text: draw_key(seed, "distractor", function.conversation_id, text))
    return similar[: NUM_CHOICES - 1]


def _call(function: HeldoutFunction) -> str:
    """The signature with its name, whichever way the corpus writes it."""
    name = function.qualified_name.rpartition(".")[2]
    return function.signature if name in function.signature else f"{function.qualified_name}{function.signature}"


def _place(answer: str, distractors: Sequence[str], index: int) -> tuple[list[str], int]:
    """Put the answer of item number `index` in its place; places take turns."""
    place = index % NUM_CHOICES
    return [*distractors[:place], answer, *distractors[place:]], place


@dataclass(frozen=True)
class _Ending:
    """A sentence's last word and the text before it."""

    document: HeldoutDocument
    start: int
    word: str

    @property
    def item_id(self) -> str:
        return f"{self.document.document_id}:{self.start}"


def cloze_items(documents: Sequence[HeldoutDocument], config: ClozeConfig, seed: int) -> list[Json]:
    """Questions for the cloze: the last word of a sentence among three other words that end sentences there.

    Distractors come from the same project, have the same capitalisation, nearly the same length and nearly the same
    frequency in the project, so that neither length nor frequency gives the answer away.
    """
    by_source: dict[str, list[_Ending]] = defaultdict(list)
    frequencies: dict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        by_source[document.source].extend(_endings(document))
        frequencies[document.source].update(_WORD.findall(document.text))
    pools = {source: sorted({ending.word for ending in endings}) for source, endings in by_source.items()}
    drawn = [ending for endings in by_source.values() for ending in endings]
    drawn.sort(key=lambda ending: draw_key(seed, "cloze", ending.item_id))
    items: list[Json] = []
    per_document: Counter[str] = Counter()
    for ending in drawn:
        source, document_id = ending.document.source, ending.document.document_id
        if per_document[document_id] == config.max_items_per_document:
            continue
        distractors = _other_words(ending, pools[source], frequencies[source], seed)
        if len(distractors) == NUM_CHOICES - 1:
            per_document[document_id] += 1
            items.append(_cloze_item(ending, distractors, config, len(items)))
        if len(items) == config.max_items + config.num_fewshot:
            break
    return items


def _cloze_item(ending: _Ending, distractors: Sequence[str], config: ClozeConfig, index: int) -> Json:
    choices, answer = _place(ending.word, distractors, index)
    before = ending.document.text[: ending.start].strip()
    if len(before) > config.context_characters:
        before = before[-config.context_characters :].partition(" ")[2]
    return {
        "item_id": ending.item_id,
        "document_id": ending.document.document_id,
        "source": ending.document.source,
        "licence": ending.document.licence,
        "prompt": before.strip(),
        "choices": choices,
        "answer": answer,
    }


def _endings(document: HeldoutDocument) -> Iterator[_Ending]:
    for sentence in _SENTENCE.finditer(document.text):
        found = _LAST_WORD.search(sentence.group())
        if found is None or len(sentence.group().strip()) < _MIN_SENTENCE_CHARACTERS:
            continue
        word = found.group(1)
        if len(word) >= _MIN_WORD_CHARACTERS and word.isalpha():
            yield _Ending(document, sentence.start() + found.start(1), word)


def _other_words(ending: _Ending, pool: Sequence[str], frequencies: Counter[str], seed: int) -> list[str]:
    word = ending.word
    candidates = []
    for other in pool:
        if other.casefold() == word.casefold() or _shape(other) != _shape(word):
            continue
        if word.startswith(other) or other.startswith(word):
            continue
        length = abs(len(other) - len(word))
        frequency = abs(frequencies[other].bit_length() - frequencies[word].bit_length())
        if length <= _MAX_LENGTH_DIFFERENCE and frequency <= _MAX_FREQUENCY_DIFFERENCE:
            candidates.append((frequency, length, draw_key(seed, "word", ending.item_id, other), other))
    return [other for _, _, _, other in sorted(candidates)[: NUM_CHOICES - 1]]


def _shape(word: str) -> tuple[bool, bool]:
    return word[:1].isupper(), word.isupper()
