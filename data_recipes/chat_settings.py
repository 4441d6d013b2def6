"""The section `chats` of a corpus recipe: local files of conversations and preference pairs, and their rows."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from data_recipes.local_files import DatasetFile
from data_recipes.row_settings import StatedLicence
from data_recipes.source_terms import SourceTerms, check_names
from provenance.canonical import Json
from provenance.config import Config

ChatKind = Literal["messages", "prompt-completion", "preference"]
COLUMNS: dict[ChatKind, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
}
"""Columns that rows of a kind have at least."""

Packing = Literal["none", "best-fit"]
"""A sequence per row; or several, each ended by the end-of-text token, at which document masking parts them."""

DROPPED_CHATS = "dropped-chats"
"""Folder of a corpus with the examples that a rule on evaluation sets or personal data dropped, without their text."""

PROMPT = "prompt"
"""Column with the turns that are read and not trained."""


def parts_of(*, is_pair: bool) -> tuple[str, ...]:
    """Return the columns with the turns that are trained, or of which one is preferred: one for each sequence."""
    return ("chosen", "rejected") if is_pair else ("completion",)


def rows_split(kind: str, split: str) -> str:
    """Return the split of rows that conversations or pairs of a source become.

    Args:
        kind: of the source, as `ChatSource.kind`.
        split: of the source: `train` or `heldout`.
    """
    name = "preference" if kind == "preference" else "chat"
    return f"{name}-heldout" if split == "heldout" else name


class ChatSource(SourceTerms):
    """Local files of conversations, in `execution.data_dir`; the columns have the names that are usual on the Hub.

    Attributes:
        kind: `messages`, a column of turns; `prompt-completion`, two columns; or `preference`, with the columns
            `chosen`, `rejected` and, where these do not begin with it, `prompt`. A prompt or an answer is a list of
            turns (`role`, `content`), or a text that stands for one turn.
        format: `jsonl`, one object per line, plain or compressed (`.gz`, `.zst`); or `parquet`.
        files: the files with their digests.
        licence_column: column with an SPDX expression per row; or `licence` for all rows.
        split: `train` or `heldout`, for the whole source.
    """

    name: str = Field(min_length=1)
    kind: ChatKind
    format: Literal["jsonl", "parquet"]
    files: list[DatasetFile] = Field(min_length=1)
    licence_column: str | None = Field(default=None, min_length=1)
    licence: StatedLicence | None = None
    split: Literal["train", "heldout"]

    @model_validator(mode="after")
    def _has_one_licence(self) -> "ChatSource":
        if (self.licence_column is None) == (self.licence is None):
            raise ValueError("exactly one of licence_column and licence")
        return self

    def lock_entry(self, num_rows: int, sizes: Mapping[str, int]) -> dict[str, Json]:
        """Return the source's entry in `sources.lock`.

        Args:
            sizes: bytes of each file, by its path.
        """
        return {
            "name": self.name,
            "type": "chat",
            "kind": self.kind,
            "format": self.format,
            "files": [
                {"path": file.path, "sha256": file.sha256, "size_bytes": sizes[file.path]} for file in self.files
            ],
            "size_bytes": sum(sizes[file.path] for file in self.files),
            "num_rows": num_rows,
            "split": self.split,
            "licence": self.licence.lock_entry(self.as_of) if self.licence else {"column": self.licence_column},
            **self.terms_entry(),
        }


class ChatConfig(Config):
    """Conversations and preference pairs from files, and the rows they are trained in.

    Attributes:
        window_tokens: window length for conversations; a row holds one token more. A pair is one row of twice that.
        too_long: what becomes of a conversation that does not fit: `drop`, or `truncate`, which cuts its end.
        packing: `none`, a conversation per row; or `best-fit`, several, each ended by the end-of-text token: train
            on them with `data.document_masking`, so that none attends to another.
        sources: the files.
    """

    window_tokens: int = Field(ge=8)
    too_long: Literal["drop", "truncate"] = "drop"
    packing: Packing = "none"
    sources: list[ChatSource] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ChatConfig":
        check_names(source.name for source in self.sources)
        return self
