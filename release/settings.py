"""The release recipe: names, licences, stages, data shipping and what the provider states."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from provenance.config import Config
from provenance.made_model import AVERAGE

Shipping = Literal["text", "tokens", "index", "reference"]
"""What a bundle carries of a source: everything, no text, neither text nor tokens, or lock and index only."""


class Provider(Config):
    """Who answers for the release; `contact` is an address or a web page that people can reach."""

    name: str = Field(min_length=1)
    contact: str = Field(min_length=1)


class Licences(Config):
    """SPDX expressions of the three elements of OSAID 1.0; the documents of the corpus keep their own."""

    code: str = "Apache-2.0"
    weights: str = "Apache-2.0"
    data_information: str = "Apache-2.0"


class Channel(Config):
    """A place where the release is or will be offered."""

    location: str = Field(min_length=1)
    gated: bool = False


class DataStatement(Config):
    """What only the people who chose the data can say about it."""

    selection: str = Field(min_length=40)
    labelling: str = Field(min_length=20)


class HyperparameterSearch(Config):
    """Whether settings were searched for by a program and, if so, where in the source tree it lies."""

    used: bool = False
    code_path: str = ""


class ReleaseConfig(Config):
    """`release.yaml`.

    Attributes:
        stages: stages in order, from `corpus` to `eval`; the one before `eval` makes the released model.
        shipping: per source what the bundle carries; sources that are not named ship their text.
        distribution: where the release is offered and whether access is gated there.
        acceptable_use: a binding acceptable-use policy, or empty for none (OSAID 1.0 asks for none).
        plan_only: why this recipe is for `openwright plan` alone and no command runs it; empty for one that runs.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^[0-9]+(\.[0-9]+)*([a-z0-9.+-]*)$")
    description: str = Field(min_length=20)
    provider: Provider
    licences: Licences = Licences()
    stages: list[str] = Field(default=["corpus", "pretrain", "sft", "eval"])
    languages: list[str] = Field(default=["en"], min_length=1)
    intended_use: str = Field(min_length=20)
    limitations: list[str] = Field(min_length=1)
    data: DataStatement
    hyperparameter_search: HyperparameterSearch = HyperparameterSearch()
    acceptable_use: str = ""
    plan_only: str = ""
    shipping: dict[str, Shipping] = Field(default={})
    distribution: list[Channel] = Field(default=[])

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, stages: list[str]) -> list[str]:
        if len(set(stages)) != len(stages):
            raise ValueError("each stage once")
        if stages[:1] != ["corpus"] or stages[-1:] != ["eval"] or len(stages) < 3:
            raise ValueError("corpus first, then at least one training stage, eval last")
        if AVERAGE in stages[:-2]:
            raise ValueError("average stands right before eval: no stage goes on from an average")
        return stages

    @model_validator(mode="after")
    def _search_names_its_code(self) -> "ReleaseConfig":
        if self.hyperparameter_search.used and not self.hyperparameter_search.code_path:
            raise ValueError("hyperparameter_search.code_path is needed where a search was used")
        return self

    @property
    def released_stage(self) -> str:
        """The stage whose final weights are released."""
        return self.stages[-2]
