"""A Debian source package, as a recipe names it."""

from typing import Literal

from pydantic import Field

from data_recipes.policy import Spdx
from data_recipes.source_terms import SourceTerms
from provenance.config import Config


class DebianFile(Config):
    """The description of a source package (`.dsc`): it holds the sha256 of each of the package's archives."""

    filename: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]*_[A-Za-z0-9.+~-]+\.dsc$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)


class DebianSource(SourceTerms):
    """A source package of a Debian archive, with a licence per file from its machine-readable `debian/copyright`.

    Attributes:
        package: name of the source package.
        version: its version, as in its description.
        directory: where it lies below the archive, such as `pool/main/h/hello`.
        dsc: its description, which pins the archives.
        split: `train` or `heldout`, for the whole package.
        keep: globs of paths in the package; none keeps all. `*` also crosses directories.
        skip: globs of paths to leave out.
        licence_names: what names of licences in this package mean, as SPDX expressions, where they are not known.
    """

    type: Literal["debian"]
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")
    directory: str = Field(pattern=r"^[a-z0-9-]+(/[a-z0-9][a-z0-9+.-]*)+$")
    dsc: DebianFile
    split: Literal["train", "heldout"] = "train"
    keep: list[str] = Field(default=[])
    skip: list[str] = Field(default=[])
    licence_names: dict[str, Spdx] = Field(default={})

    @property
    def name(self) -> str:
        """Name of the source in a corpus."""
        return self.package

    @property
    def place(self) -> str:
        """What the recipe says, or a command for apt."""
        return self.obtained_from or f"apt-get source --download-only {self.package}={self.version}"

    @property
    def pins(self) -> list[str]:
        """The sha256 of the description, which holds those of the archives."""
        return [self.dsc.sha256]
