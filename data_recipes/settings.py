"""The recipe of a corpus: sources, licence policy, quality rules, tokenizer, conversations."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data_recipes.chat_settings import ChatConfig, Packing
from data_recipes.debian_settings import DebianSource
from data_recipes.filters import QualityRules
from data_recipes.hub_settings import HubSource
from data_recipes.local_files import DatasetFile
from data_recipes.policy import LicencePolicy
from data_recipes.pypi_settings import PypiSource
from data_recipes.ray_settings import RayExecution
from data_recipes.reading import ReadingLimits
from data_recipes.row_settings import DatasetSource, StatedLicence
from data_recipes.rule_settings import (
    DecontaminationRules,
    LineRules,
    NearDuplicateRules,
    PersonalDataRules,
    RepeatedTextRules,
)
from data_recipes.shards import token_dtype
from data_recipes.slurm_settings import SlurmExecution
from data_recipes.source_terms import check_names
from data_recipes.token_settings import TokensSource, check_in_place
from data_recipes.warc_settings import WarcSource
from provenance.canonical import Json
from provenance.config import Config

TAKEN_TOKENIZER = "taken-tokenizer/tokenizer.json"
"""Place in a corpus of the exact file that `tokenizer.file` names."""


class ForgottenDocument(Config):
    """A document that was taken down: it is dropped by its id, and any other by the same text."""

    document_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    text_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


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


class TakenTokenizer(DatasetFile):
    """A `tokenizer.json` made elsewhere; the corpus carries the exact file.

    Attributes:
        obtained_from: where a stranger gets it, with the version.
        licence: its licence, with the text that says so; a release without one does not pass for open.
    """

    obtained_from: str = ""
    licence: StatedLicence | None = None

    def lock_entry(self, size_bytes: int) -> dict[str, Json]:
        """Return what `sources.lock` says of it."""
        licence = self.licence and {"spdx": self.licence.spdx, "declared": self.licence.evidence}
        entry = {"path": self.path, "sha256": self.sha256, "size_bytes": size_bytes}
        return {**entry, "obtain": self.obtained_from, "licence": licence}


MIN_TRAINED_VOCABULARY = 261
"""The 256 bytes and five special tokens."""


class TokenizerConfig(Config):
    """A byte-level BPE tokenizer trained on the kept training documents, or any tokenizer of a file.

    Attributes:
        file: a `tokenizer.json` to take instead of training one; special tokens that it lacks are added at its end.
        vocab_size: size of the vocabulary, special tokens included; of one that is trained at least the 256 bytes and
            the special tokens.
        max_token_length: longest trained token in characters, so that rulers of `====` do not fill the vocabulary.
    """

    file: TakenTokenizer | None = None
    vocab_size: int = Field(ge=6, le=2**32)
    max_token_length: int = Field(default=16, ge=1)
    special_tokens: SpecialTokens = SpecialTokens()
    chat_template: Literal["turns"] = "turns"

    @field_validator("vocab_size")
    @classmethod
    def _holds_all_bytes(cls, value: int, info: ValidationInfo) -> int:
        is_trained = info.data.get("file", ...) is None  # of a file that is wrong itself, that is told
        if is_trained and value < MIN_TRAINED_VOCABULARY:
            raise ValueError(f"at least {MIN_TRAINED_VOCABULARY}: the bytes and the special tokens")
        return value


class ConversationConfig(Config):
    """Conversations made from documented functions, and the rows they are trained in.

    Attributes:
        window_tokens: window length of fine-tuning; a row holds one token more.
        min_summary_words: shortest docstring summary.
        max_summary_chars: longest docstring summary.
        max_signature_chars: longest signature that is quoted in a question.
        packing: `none`, a conversation per row; or `best-fit`: several, for training with `data.document_masking`.
    """

    window_tokens: int = Field(ge=8)
    min_summary_words: int = Field(default=4, ge=1)
    max_summary_chars: int = Field(default=400, ge=1)
    max_signature_chars: int = Field(default=160, ge=2)
    packing: Packing = "none"


class ExecutionConfig(Config):
    """How a corpus is built; nothing here changes its bytes.

    Attributes:
        num_workers: processes that do the tasks of a build on this machine.
        bucket_mb: text that a process holds at a time when it sorts documents; more is faster where there are more than
            some 100 GB of text.
        slurm: do them as job arrays of a Slurm cluster instead.
        ray: do them on a Ray cluster instead; not both.
        cache_dir: where fetched archives are kept.
        index_url: package index to fetch from; None for the default one.
        data_dir: directory that the paths of local files are relative to.
        tokenizer_file: where the file of `tokenizer.file` lies; None for its path below `data_dir`.
        evaluation_sets_dir: where files of `decontamination.sets` lie that a bundle carries, named by digest; those
            that are not there lie below `data_dir`.
        debian_archive: address above `pool/` of the Debian archive to fetch from; there is no default one.
        keep_fetched: whether files of the Hub stay in the cache once their rows are read.
    """

    num_workers: int = Field(default=2, ge=1)
    bucket_mb: int = Field(default=32, ge=1)
    slurm: SlurmExecution | None = None
    ray: RayExecution | None = None
    cache_dir: Path = Field(default=Path("~/.cache/openwright/sources"), strict=False, validate_default=False)
    index_url: str | None = None
    data_dir: Path = Field(default=Path(), strict=False, validate_default=False)
    tokenizer_file: Path | None = Field(default=None, strict=False)
    evaluation_sets_dir: Path | None = Field(default=None, strict=False)
    debian_archive: str | None = None
    keep_fetched: bool = True

    @model_validator(mode="after")
    def _has_one_executor(self) -> "ExecutionConfig":
        if self.slurm is not None and self.ray is not None:
            raise ValueError("either slurm or ray")
        return self


Source = Annotated[
    PypiSource | DatasetSource | HubSource | DebianSource | TokensSource | WarcSource, Field(discriminator="type")
]


class CorpusConfig(Config):
    """Recipe of the stage `corpus`."""

    sources: list[Source] = Field(min_length=1)
    limits: ReadingLimits = ReadingLimits()
    policy: LicencePolicy
    forget: list[ForgottenDocument] = Field(default=[])
    lines: LineRules | None = None
    quality: QualityRules = QualityRules()
    personal_data: PersonalDataRules = PersonalDataRules()
    decontamination: DecontaminationRules | None = None
    near_duplicates: NearDuplicateRules | None = None
    repeated_text: RepeatedTextRules | None = None
    tokenizer: TokenizerConfig
    conversations: ConversationConfig
    chats: ChatConfig | None = None
    num_shards: int = Field(default=1, ge=1, le=1000)
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "CorpusConfig":
        check_names(source.name for source in self.sources)
        if not any(source.split == "train" for source in self.sources):
            raise ValueError("at least one source with split: train")
        named = [] if self.lines is None else self.lines.sources or []
        unknown = sorted(set(named) - {source.name for source in self.sources})
        if unknown:
            raise ValueError(f"lines.sources names {unknown[0]!r}, which is no source")
        return self

    @model_validator(mode="after")
    def _trains_in_place(self) -> "CorpusConfig":
        check_in_place(
            [source for source in self.sources if isinstance(source, TokensSource)],
            policy=self.policy,
            lines=self.lines,
            personal_data=self.personal_data,
            tokenizer_sha256=self.tokenizer.file.sha256 if self.tokenizer.file else "",
            dtype=token_dtype(self.tokenizer.vocab_size),
        )
        return self

    @property
    def sources_in_place(self) -> list[TokensSource]:
        """The sources whose files of tokens are taken as they are."""
        return [source for source in self.sources if isinstance(source, TokensSource) and source.in_place]

    @property
    def in_place(self) -> frozenset[str]:
        """Names of these sources, all of whose documents are kept."""
        return frozenset(source.name for source in self.sources_in_place)
