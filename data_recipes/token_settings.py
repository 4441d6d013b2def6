"""Token shards made by other programs, as a recipe names them."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from data_recipes.local_files import DatasetFile
from data_recipes.policy import LicencePolicy, decide_licence
from data_recipes.row_settings import StatedLicence
from data_recipes.rule_settings import LineRules, PersonalDataRules
from data_recipes.source_terms import SourceTerms
from provenance.config import Config


class TokenShard(Config):
    """One shard.

    Attributes:
        tokens: the file of token ids: `.bin` of Megatron, `.npy` of OLMo-core (which has no header of numpy's).
        index: where documents begin: `.idx` of Megatron, `.csv.gz` of OLMo-core; None finds them by `eos_id`.
    """

    tokens: DatasetFile
    index: DatasetFile | None = None


class TokensSource(SourceTerms):
    """Token shards: read back as the texts that they were made of, or trained on as they are.

    Attributes:
        name: name of the source.
        format: the program that the shards were made for.
        dtype: of OLMo-core, whose files do not say it: `u16` or `u32`.
        shards: the shards, in order.
        tokenizer: the `tokenizer.json` that the ids belong to.
        eos_id: the id behind each document, which is no part of its text; None where there is none.
        licence: the licence of all documents.
        split: `train` or `heldout`, for the whole source.
        in_place: whether the files of tokens become token shards of the corpus as they are: same bytes, all documents,
            in their order. Else documents go the way of all others and are tokenized once more.
    """

    type: Literal["tokens"]
    name: str = Field(min_length=1)
    format: Literal["megatron", "olmo"]
    dtype: Literal["u16", "u32"] | None = None
    shards: list[TokenShard] = Field(min_length=1)
    tokenizer: DatasetFile
    eos_id: int | None = Field(default=None, ge=0)
    licence: StatedLicence
    split: Literal["train", "heldout"]
    in_place: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> "TokensSource":
        if (self.dtype is None) == (self.format == "olmo"):
            raise ValueError("dtype for olmo, and only there: an .idx file says it")
        without_index = any(shard.index is None for shard in self.shards)
        if without_index and (self.format == "megatron" or self.eos_id is None):
            raise ValueError("an index for each shard; of olmo, eos_id will do instead")
        if self.in_place and self.eos_id is None:
            raise ValueError("eos_id, the id of tokenizer.special_tokens.end_of_text, for a source in place")
        return self

    @property
    def files(self) -> list[DatasetFile]:
        """Those of the shards, in order, and the tokenizer."""
        of_shards = [file for shard in self.shards for file in (shard.tokens, shard.index) if file is not None]
        return [*of_shards, self.tokenizer]

    @property
    def pins(self) -> list[str]:
        """The sha256 of each file."""
        return [file.sha256 for file in self.files]


def check_in_place(
    sources: Sequence[TokensSource],
    *,
    policy: LicencePolicy,
    lines: LineRules | None,
    personal_data: PersonalDataRules,
    tokenizer_sha256: str,
    dtype: str,
) -> None:
    """Refuse a recipe that would change or drop documents of sources in place, or read their ids as other tokens.

    Args:
        sources: all sources of token shards.
        tokenizer_sha256: digest of `tokenizer.file`; empty where the tokenizer is trained.
        dtype: type of the corpus's token files.

    Raises:
        ValueError: as validators raise it.
    """
    holders: dict[str, TokensSource] = {}
    for source in sources:
        for tokens in (shard.tokens for shard in source.shards):
            other = holders.get(tokens.sha256)
            if other is not None and (source.in_place or other.in_place):
                raise ValueError(f"each file of tokens once; {tokens.path} is in {other.name!r} and {source.name!r}")
            holders[tokens.sha256] = source
    for source in sources:
        if not source.in_place:
            continue
        name = f"{source.name!r}, which is read in place"
        if source.tokenizer.sha256 != tokenizer_sha256:
            raise ValueError(f"tokenizer.file with the sha256 of the tokenizer of {name}")
        if source.dtype is not None and source.dtype != dtype:
            raise ValueError(f"dtype {dtype}, as tokenizer.vocab_size asks, for {name}")
        if not decide_licence(source.licence.spdx, policy, is_credited=False).allowed:
            raise ValueError(f"a policy that allows {source.licence.spdx} of {name}: no document of it can be dropped")
        if lines is not None and (lines.sources is None or source.name in lines.sources):
            raise ValueError(f"lines.sources without {name}: no line can be taken out of it")
        if personal_data.action == "redact":
            raise ValueError(f"personal_data.action: record beside {name}: nothing can be redacted in it")
