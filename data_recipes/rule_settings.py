"""Sections of a corpus recipe for what compares documents or looks into them; reading a recipe compiles no kernel."""

from typing import Literal

from pydantic import Field

from data_recipes.evaluation_sets import EvaluationSetFile
from provenance.config import Config

CONTAMINATED = "max_item_overlap"
"""Rule that drops documents which hold items of evaluation sets."""
NEAR_DUPLICATE = "near_duplicate"
"""Rule that drops documents which are like another."""

REPEATED_TEXT = "repeated_text"
"""Rule that drops documents of which too little is left without passages that stand in others."""

Kind = Literal["email", "phone", "ip", "secret"]
KINDS: tuple[Kind, ...] = ("email", "phone", "ip", "secret")
PERSONAL_DATA_LIMITS: dict[Kind, str] = {
    "email": "max_num_emails",
    "phone": "max_num_phone_numbers",
    "ip": "max_num_ip_addresses",
    "secret": "max_num_secrets",
}
"""Quality rules that limit how much personal data a document, or an example of `chats`, may hold."""


LineRuleName = Literal["javascript", "policy", "terminal_mark", "min_num_words"]
LINE_RULES: tuple[LineRuleName, ...] = ("javascript", "policy", "terminal_mark", "min_num_words")
"""Rules that take single lines out of a text, in the order in which they are applied."""


class LineRules(Config):
    """Which lines are taken out of texts before anything is measured; the defaults are those of C4.

    Attributes:
        sources: sources whose texts are thinned; None for all. Made for web pages: headings, lists and code go too.
        javascript: lines with the word JavaScript.
        policy: lines with a phrase on terms of use, privacy policies or cookies.
        terminal_mark: lines that do not end in a mark that ends a sentence or a quotation.
        min_num_words: lines with fewer words.
    """

    sources: list[str] | None = None
    javascript: bool = True
    policy: bool = True
    terminal_mark: bool = True
    min_num_words: int = Field(default=5, ge=0)


class NearDuplicateRules(Config):
    """When two documents are near-duplicates.

    Attributes:
        min_jaccard: shared shingles over all shingles of both, from which on the later document is dropped. Bands are
            made for 0.8 and more (`docs/formats.md`): lower values miss more.
        shingle_words: words of a shingle.
    """

    min_jaccard: float = Field(default=0.8, ge=0.7, le=1)
    shingle_words: int = Field(default=5, ge=1, le=32)


class RepeatedTextRules(Config):
    """Which passages are taken out of training documents because they stand in another document.

    Attributes:
        min_chars: shortest passage, in characters.
        min_words_left: a document of which fewer words are left is dropped by the rule `repeated_text`.
    """

    min_chars: int = Field(default=200, ge=20)
    min_words_left: int = Field(default=30, ge=1)


class DecontaminationRules(Config):
    """Which evaluation sets training documents and examples of `chats` are compared with, and what follows.

    Attributes:
        sets: files of items.
        heldout: whether the corpus's own held-out documents are items too, as set `heldout`.
        ngram_words: terms of a run.
        min_item_words: pieces of items with fewer terms are not looked for; they are counted.
        max_item_overlap: how much of one item, as a share of its different runs, a document may hold; what holds more
            is dropped by the rule `max_item_overlap`. 0 drops at the first run.
        action: `drop`, or `record` only.
    """

    sets: list[EvaluationSetFile] = Field(default_factory=list)
    heldout: bool = False
    ngram_words: int = Field(default=13, ge=2, le=64)
    min_item_words: int = Field(default=8, ge=1)
    max_item_overlap: float = Field(default=0.0, ge=0, le=1)
    action: Literal["drop", "record"] = "drop"

    def drops(self, overlap: float) -> bool:
        """Whether what shares so much of an item is dropped."""
        return self.action == "drop" and overlap > self.max_item_overlap


class PersonalDataRules(Config):
    """What is done about personal data in documents, and in the turns of `chats`.

    Attributes:
        action: `record` counts and keeps the places; `redact` puts a placeholder in the text as well.
        kinds: what is redacted.
    """

    action: Literal["record", "redact"] = "record"
    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS))
