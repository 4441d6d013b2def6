"""The rules on evaluation sets and personal data for conversations and preference pairs from files.

They are those of documents (`data_recipes.decontamination`, `data_recipes.personal_data`), with the same sets and
thresholds. Personal data is looked for turn by turn. Items are looked for in whole sequences, so that a question whose
answer is the next turn is found across the two; places are told turn by turn again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from data_recipes.chat_files import EQUAL_ANSWERS, ChatExample, ChatFindings, Turn, make_example
from data_recipes.chat_settings import PROMPT, parts_of
from data_recipes.decontamination import EvaluationIndex, Hit
from data_recipes.filters import QualityRules, broken_personal_data_limit
from data_recipes.personal_data import find_personal_data, redact
from data_recipes.rule_settings import CONTAMINATED, DecontaminationRules, Kind, PersonalDataRules
from data_recipes.text import normalise
from data_recipes.text_kernels import Segments, Terms, segment


class _ReadTurn(NamedTuple):
    """A turn with its terms; `is_normal` says that their places are those of the turn as it stands."""

    part: str
    number: int
    content: str
    terms: Terms
    is_normal: bool


class _Searched(NamedTuple):
    """An example after the search for personal data, with the terms of its turns, part by part."""

    example: ChatExample
    read: dict[str, list[_ReadTurn]]
    num_found: Counter[Kind]


@dataclass(frozen=True)
class ChatRules:
    """What is asked of every example.

    Attributes:
        personal_data: what is done about personal data.
        limits: quality rules, of which those in `PERSONAL_DATA_LIMITS` are applied to the turns of an example together.
        decontamination: what follows from shared text.
        index: the items; None where nothing is compared.
    """

    personal_data: PersonalDataRules
    limits: QualityRules
    decontamination: DecontaminationRules | None = None
    index: EvaluationIndex | None = None

    def judge(self, example: ChatExample) -> tuple[ChatExample, str]:
        """Return an example with what was found in it, redacted where that is asked; and the rule that drops it."""
        searched = self._search(example)
        found = searched.example
        if broken := broken_personal_data_limit(searched.num_found, self.limits):
            return found, broken
        if found.findings.redacted_from and len(found.answers) > 1 and found.answers[0] == found.answers[1]:
            return found, EQUAL_ANSWERS
        if self.index is None or self.decontamination is None or found.split == "heldout":
            return found, ""
        found = self._compared(found, searched.read, self.index)
        return found, CONTAMINATED if self.decontamination.drops(found.findings.overlap) else ""

    def _search(self, example: ChatExample) -> _Searched:
        spans: list[dict[str, Any]] = []
        read: dict[str, list[_ReadTurn]] = {}
        turns: dict[str, list[Turn]] = {}
        num_found: Counter[Kind] = Counter()
        for part, of_part in _parts(example):
            read[part], turns[part] = [], []
            for number, (role, content) in enumerate(of_part):
                segments = segment(content)
                found = find_personal_data(content, segments)
                spans += [{"part": part, "turn": number, **vars(span)} for span in found]
                num_found.update(span.kind for span in found)
                if self.personal_data.action == "redact" and any(s.kind in self.personal_data.kinds for s in found):
                    content = redact(content, found, self.personal_data.kinds).text
                    segments = segment(content)
                turns[part].append((role, content))
                if self.index is not None:
                    read[part].append(_read_turn(part, number, content, segments))
        prompt, *answers = (tuple(of_part) for of_part in turns.values())
        redacted = make_example(example.source, example.split, example.licence, prompt, tuple(answers))
        redacted_from = example.key if redacted.key != example.key else ""
        findings = ChatFindings(personal_data=tuple(spans), redacted_from=redacted_from)
        return _Searched(replace(redacted, findings=findings), read, num_found)

    def _compared(self, example: ChatExample, read: dict[str, list[_ReadTurn]], index: EvaluationIndex) -> ChatExample:
        """The example with what its sequences share with items; what stands in the prompt of both is told once."""
        prompt, *answers = read.values()
        overlap, hits = 0.0, dict[tuple[Any, ...], dict[str, Any]]()
        for answer in answers:
            sequence = _Sequence([*prompt, *answer])
            found = index.find(sequence.terms())
            overlap = max(overlap, found.overlap)
            for place in (place for hit in found.hits for place in sequence.places(hit)):
                hits[tuple(place.values())] = place
        findings = replace(example.findings, overlap=overlap, hits=tuple(hits.values()))
        return replace(example, findings=findings)


def _parts(example: ChatExample) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """Parts of an example by the names of their columns, the prompt first."""
    yield PROMPT, example.prompt
    yield from zip(parts_of(is_pair=len(example.answers) > 1), example.answers, strict=True)


def _read_turn(part: str, number: int, content: str, segments: Segments) -> _ReadTurn:
    """A turn with the terms of its normal form, in which documents are compared; mostly it has the same terms."""
    terms, normal = segments.terms, normalise(content)
    if normal != content:
        of_normal = segment(normal).terms
        if not np.array_equal(of_normal.hashes, terms.hashes):
            return _ReadTurn(part, number, content, of_normal, is_normal=False)
    return _ReadTurn(part, number, content, terms, is_normal=True)


class _Sequence:
    """Turns that are read one after the other, as one text in which a character stands between two of them."""

    def __init__(self, turns: Sequence[_ReadTurn]) -> None:
        self._turns = turns
        # Of a turn that is not in normal form the places are those of its normal form, which may be longer.
        lengths = [len(turn.content) if turn.is_normal else _end(turn.terms) for turn in turns]
        self._ends = np.cumsum([length + 1 for length in lengths], dtype=np.int64) - 1
        self._starts = self._ends - lengths

    def terms(self) -> Terms:
        """The terms of all turns in order."""
        terms = [turn.terms for turn in self._turns]
        starts, ends = (
            np.concatenate([place + start for place, start in zip(places, self._starts, strict=True)])
            for places in ([of_turn.starts for of_turn in terms], [of_turn.ends for of_turn in terms])
        )
        return Terms(np.concatenate([of_turn.hashes for of_turn in terms]), starts, ends)

    def places(self, hit: Hit) -> Iterator[dict[str, Any]]:
        """What of a hit stands in which turn; of a turn that is not in normal form, all of it."""
        for turn, turn_start, turn_end in zip(self._turns, self._starts.tolist(), self._ends.tolist(), strict=True):
            start, end = max(hit.start, turn_start) - turn_start, min(hit.end, turn_end) - turn_start
            if start < end:
                yield {
                    "set": hit.set_name,
                    "item": hit.item_id,
                    "part": turn.part,
                    "turn": turn.number,
                    "start": start if turn.is_normal else 0,
                    "end": end if turn.is_normal else len(turn.content),
                    "num_runs": hit.num_runs,
                }


def _end(terms: Terms) -> int:
    return int(terms.ends[-1]) if len(terms.ends) else 0
