"""The recipe of a corpus: sources, licence policy, quality rules, tokenizer, conversations."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from data_recipes.filters import QualityRules
from data_recipes.policy import LicencePolicy, checked_spdx
from data_recipes.pypi import PypiSource
from data_recipes.reading import ReadingLimits
from provenance.config import Config

_SHA256 = r"[0-9a-f]{64}"


class DatasetFile(Config):
    """One file of a data set, by path relative to `execution.data_dir`, with its digest."""

    path: str
    sha256: str = Field(pattern=f"^{_SHA256}$")

    @field_validator("path")
    @classmethod
    def _is_relative(cls, value: str) -> str:
        place = PurePosixPath(value)
        if not value or place.is_absolute() or ".." in place.parts:
            raise ValueError("a relative path without '..'; execution.data_dir says where it lies")
        return value


class StatedLicence(Config):
    """A licence that holds for every row of a data set, with the text that says so."""

    spdx: str
    evidence: str = Field(min_length=1)

    @field_validator("spdx")
    @classmethod
    def _is_spdx(cls, value: str) -> str:
        return checked_spdx(value)


class DatasetSource(Config):
    """Local Parquet or JSONL files, read through `datasets.load_dataset`; every row is a document.

    Attributes:
        name: name of the source.
        format: `parquet` or `jsonl`.
        text_column: column with the text.
        licence_column: column with an SPDX expression per row; or `licence` for all rows.
        split: `train` or `heldout`, for the whole source.
        as_of: ISO date as of which the licence statement was taken.
        obtained_from: where a stranger gets the files.
        data_class: class of the Open Source AI Definition: open, public, obtainable or unshareable.
    """

    type: Literal["dataset"]
    name: str = Field(min_length=1)
    format: Literal["parquet", "jsonl"]
    files: list[DatasetFile] = Field(min_length=1)
    text_column: str = "text"
    licence_column: str | None = None
    licence: StatedLicence | None = None
    split: Literal["train", "heldout"]
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    obtained_from: str = ""
    data_class: Literal["open", "public", "obtainable", "unshareable"] = "open"

    @model_validator(mode="after")
    def _has_one_licence(self) -> "DatasetSource":
        if (self.licence_column is None) == (self.licence is None):
            raise ValueError("exactly one of licence_column and licence")
        return self


class SpecialTokens(Config):
    """Control tokens; their ids are 0, 1, 2, ... in this order."""

    end_of_text: str = Field(default="<|endoftext|>", min_length=1)
    pad: str = Field(default="<|pad|>", min_length=1)
    user: str = Field(default="<|user|>", min_length=1)
    assistant: str = Field(default="<|assistant|>", min_length=1)
    end: str = Field(default="<|end|>", min_length=1)

    @model_validator(mode="after")
    def _are_distinct(self) -> "SpecialTokens":
        if len(set(self.in_order())) != len(self.in_order()):
            raise ValueError("five different tokens")
        return self

    def in_order(self) -> tuple[str, ...]:
        """Return the tokens in the order of their ids."""
        return (self.end_of_text, self.pad, self.user, self.assistant, self.end)


class TokenizerConfig(Config):
    """A byte-level BPE tokenizer, trained on the kept training documents.

    Attributes:
        vocab_size: size of the vocabulary, special tokens included; at least the 256 bytes and the special tokens.
        max_token_length: longest token in characters, so that rulers of `====` do not fill the vocabulary.
    """

    vocab_size: int = Field(ge=261, le=2**32)
    max_token_length: int = Field(default=16, ge=1)
    special_tokens: SpecialTokens = SpecialTokens()
    chat_template: Literal["turns"] = "turns"


class ConversationConfig(Config):
    """Conversations made from documented functions, and the rows they are trained in.

    Attributes:
        window_tokens: window length of fine-tuning; a row holds one token more.
        min_summary_words: shortest docstring summary.
        max_summary_chars: longest docstring summary.
        max_signature_chars: longest signature that is quoted in a question.
    """

    window_tokens: int = Field(ge=8)
    min_summary_words: int = Field(default=4, ge=1)
    max_summary_chars: int = Field(default=400, ge=1)
    max_signature_chars: int = Field(default=160, ge=2)


class ExecutionConfig(Config):
    """How a corpus is built; nothing here changes its bytes.

    Attributes:
        num_workers: processes that read sources.
        cache_dir: where fetched archives are kept.
        index_url: package index to fetch from; None for the default one.
        data_dir: directory that the paths of `dataset` sources are relative to.
    """

    num_workers: int = Field(default=2, ge=1)
    cache_dir: Path = Field(default=Path("~/.cache/openwright/sources"), strict=False)
    index_url: str | None = None
    data_dir: Path = Field(default=Path(), strict=False)


Source = Annotated[PypiSource | DatasetSource, Field(discriminator="type")]


class CorpusConfig(Config):
    """Recipe of the stage `corpus`."""

    sources: list[Source] = Field(min_length=1)
    limits: ReadingLimits = ReadingLimits()
    policy: LicencePolicy
    quality: QualityRules = QualityRules()
    tokenizer: TokenizerConfig
    conversations: ConversationConfig
    num_shards: int = Field(default=1, ge=1, le=1000)
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "CorpusConfig":
        repeated = [name for name, count in Counter(source.name for source in self.sources).items() if count > 1]
        if repeated:
            raise ValueError(f"source names used once each; {repeated[0]!r} is used twice")
        if not any(source.split == "train" for source in self.sources):
            raise ValueError("at least one source with split: train")
        return self
