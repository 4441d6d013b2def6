"""Token shards made by other programs, as a recipe names them."""

from typing import Literal

from pydantic import Field, model_validator

from data_recipes.local_files import DatasetFile
from data_recipes.row_settings import StatedLicence
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
    """Token shards, read back as the texts that they were made of.

    Attributes:
        name: name of the source.
        format: the program that the shards were made for.
        dtype: of OLMo-core, whose files do not say it: `u16` or `u32`.
        shards: the shards, in order.
        tokenizer: the `tokenizer.json` that the ids belong to.
        eos_id: the id behind each document, which is no part of its text; None where there is none.
        licence: the licence of all documents.
        split: `train` or `heldout`, for the whole source.
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

    @model_validator(mode="after")
    def _goes_together(self) -> "TokensSource":
        if (self.dtype is None) == (self.format == "olmo"):
            raise ValueError("dtype for olmo, and only there: an .idx file says it")
        without_index = any(shard.index is None for shard in self.shards)
        if without_index and (self.format == "megatron" or self.eos_id is None):
            raise ValueError("an index for each shard; of olmo, eos_id will do instead")
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
