"""How a source can be had: its class in the Open Source AI Definition, and what belongs to each class."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from provenance.canonical import Json
from provenance.config import Config

DataClass = Literal["open", "public", "obtainable", "unshareable"]
Reason = Literal["personal data", "contract", "statute", "indigenous data", "safety"]


def check_names(names: Iterable[str]) -> None:
    """Refuse names of sources of which one is used twice.

    Raises:
        ValueError: as validators raise it.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"source names used once each; {repeated[0]!r} is used twice")


class SourceTerms(Config):
    """Fields of every source whose recipe states how it can be had.

    Attributes:
        as_of: ISO date as of which licence statement and terms were taken.
        obtained_from: where a stranger gets the data.
        data_class: class of the Open Source AI Definition.
        vendor: of an obtainable source, who gives it to those who ask.
        fee: of an obtainable source, what that costs, such as `none` or `EUR 400 once`.
        reason: of an unshareable source, why it cannot be shared.

    What a class asks for and a recipe leaves out is no error here: `openwright plan` and the rules of openness say
    what is missing.
    """

    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    obtained_from: str = ""
    data_class: DataClass = "open"
    vendor: str = ""
    fee: str = ""
    reason: Reason | None = None

    @model_validator(mode="after")
    def _states_only_what_its_class_asks(self) -> "SourceTerms":
        if self.data_class != "obtainable" and (self.vendor or self.fee):
            raise ValueError("vendor and fee only where data_class is obtainable")
        if self.data_class != "unshareable" and self.reason is not None:
            raise ValueError("a reason only where data_class is unshareable")
        return self

    @property
    def place(self) -> str:
        """Where a stranger gets the data: what the recipe says, or what follows from the type of the source."""
        return self.obtained_from

    def terms_entry(self) -> dict[str, Json]:
        """Return these fields as they stand in `sources.lock`."""
        entry: dict[str, Json] = {
            "as_of": self.as_of,
            "osaid_class": self.data_class,
            "obtain": self.place,
        }
        if self.data_class == "obtainable":
            entry |= {"vendor": self.vendor, "fee": self.fee}
        if self.reason is not None:
            entry["reason"] = self.reason
        return entry
