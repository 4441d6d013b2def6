"""A source distribution of a package index, as a recipe names it."""

from typing import Literal

from pydantic import Field

from provenance.config import Config


class PypiSource(Config):
    """A pinned source distribution.

    Attributes:
        project: name of the project on the index.
        filename: name of the archive, which fixes its form.
        size_bytes: size of the archive.
        split: `train`, or `heldout` for a whole project that is never trained on.
        as_of: ISO date at which the source was pinned; the date of all licence evidence.
        keep: globs of paths in the archive; none keeps all. `*` also crosses directories.
        skip: globs of paths to leave out.
    """

    type: Literal["pypi"]
    project: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    version: str = Field(min_length=1)
    filename: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*\.(tar\.gz|tgz|tar\.bz2|zip)$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    split: Literal["train", "heldout"] = "train"
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    keep: list[str] = Field(default=[])
    skip: list[str] = Field(default=[])

    @property
    def name(self) -> str:
        """Name of the source in a corpus."""
        return self.project
