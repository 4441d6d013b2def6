"""A data set on the Hugging Face Hub, as a recipe names it."""

from typing import Literal

from pydantic import Field, model_validator

from data_recipes.row_settings import RowSource


class HubSource(RowSource):
    """A data set of the Hugging Face Hub.

    Attributes:
        repo_id: `ORG/NAME`.
        revision: the commit, 40 hexadecimal digits: a branch or a tag can be moved. A recipe that names none can be
            read and planned, and not run.
        files: globs of the paths to read; `*` also crosses directories.
        skip: globs of paths to leave out.
        card_licence: whether the licence of the data set's card holds for rows without one of their own; weak
            evidence, for it is one word of whoever put the set together.
    """

    type: Literal["hub"]
    repo_id: str = Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    files: list[str] = Field(min_length=1)
    skip: list[str] = Field(default=[])
    card_licence: bool = False

    @model_validator(mode="after")
    def _has_a_licence(self) -> "HubSource":
        of_rows = self.licence_column is not None or self.card_licence
        if of_rows == (self.licence is not None):
            raise ValueError("licence_column, card_licence or both; or licence alone")
        return self

    @property
    def place(self) -> str:
        """What the recipe says, or a command of the Hub's library."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return self.obtained_from or f"hf download --repo-type dataset{revision} {self.repo_id}"

    @property
    def pins(self) -> list[str]:
        """The commit, which holds the digest of each file."""
        return [] if self.revision is None else [self.revision]
