"""What BUNDLE stands for on a command line: a directory, or a bundle on the Hub, of which needed files are fetched."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from openwright.outcome import command
from provenance.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from release.verify import CheckResult

PREFIX = "hf:"
CACHE = Path("~/.cache/openwright/bundles")
"""Where bundles from the Hub are kept, by model repository and commit."""

LOOKUP_CACHE = Path("~/.cache/openwright/lookup")
"""Where row numbers of large corpora and indexes of texts are kept."""


class Located(Protocol):
    """A bundle in a directory, all of it or as much as was fetched."""

    @property
    def path(self) -> Path:
        """Directory that holds `model/` and `dataset/`."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def argument(self) -> str:
        """How a command line names it, options included."""

    def fetch(self, *patterns: str, is_lone_allowed: bool = False) -> None:
        """Fetch the files that match patterns of bundle paths, where they are not here."""

    def checks(self) -> list["CheckResult"]:
        """What can be said of the place that the files came from."""


@dataclass(frozen=True)
class LocalBundle:
    """A bundle in a directory of the user's; there is nothing to fetch."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return self.path.as_posix()

    @property
    def argument(self) -> str:
        """Its path, quoted where a shell needs it."""
        return shlex.quote(self.name)

    def fetch(self, *patterns: str, is_lone_allowed: bool = False) -> None:
        """Nothing: what is not here is missing.

        Raises:
            BundleError: for a model repository by itself, unless the command can do without a dataset.
        """
        is_lone = (self.path / "verify.py").is_file() and (self.path / "manifest.json").is_file()
        if is_lone and not is_lone_allowed:
            raise BundleError(
                "a model repository by itself",
                expected="a directory that holds it as model/, beside the dataset as dataset/",
                where=self.name,
                next_command=f"openwright verify {self.argument}, which needs no dataset",
            )

    def checks(self) -> list["CheckResult"]:
        """Nothing: a directory is what it holds."""
        return []


@dataclass(frozen=True)
class BundleArgument:
    """What a command line says of a bundle.

    Attributes:
        place: a path, or `hf:ORG/NAME[@REVISION]`.
        dataset: `hf:ORG/NAME[@REVISION]`, `none`, or empty for the dataset that the model's card names.
        cache: where files from the Hub are kept.
    """

    place: Path
    dataset: str = ""
    cache: Path = CACHE

    @property
    def is_remote(self) -> bool:
        """Whether it is on the Hub."""
        return str(self.place).startswith(PREFIX)

    def locate(self) -> Located:
        """Find the bundle; on the Hub its manifest is fetched and read.

        Raises:
            ConfigError: for a name that is none, a directory that is not there, or `--dataset` beside a directory.
            BundleError: when the Hub has no such bundle.
        """
        if self.is_remote:
            from openwright.hub import parse_name
            from openwright.hub_bundle import HubBundle

            return HubBundle(parse_name(str(self.place)), self.dataset, self.cache)
        if self.dataset:
            raise ConfigError(
                "--dataset beside a directory",
                expected="hf:ORG/NAME as the bundle; in a directory the dataset is dataset/",
                where="command line",
            )
        return LocalBundle(_bundle_at(self.place))


def own_directory(place: Path) -> Path:
    """A bundle that is about to be changed by its maker: a directory.

    Raises:
        ConfigError: for one on the Hub, or a directory that is not there.
    """
    if BundleArgument(place).is_remote:
        raise ConfigError(f"{place} is on the Hub", expected="the directory of your own bundle", where="command line")
    return _bundle_at(place)


def _bundle_at(place: Path) -> Path:
    """The directory that was named, or the one above where that is the `model/` beside a `dataset/`.

    What `from_pretrained` takes is at hand more often than the directory above it; `verify.py` sees it the same way.
    """
    if not place.is_dir():
        raise ConfigError(
            "a file" if place.is_file() else "no such directory",
            expected=f"a bundle: a directory with model/ and dataset/, or {PREFIX}ORG/NAME[@REVISION]",
            where=str(place),
            next_command="openwright run CONFIG_DIR, which prints where its bundle lies",
        )
    if (place / "corpus.json").is_file() and not (place / "model").is_dir():
        raise ConfigError(
            "a corpus, and no bundle: no run is known that read it",
            expected="a bundle, with model/ and dataset/; docs/questions.md asks a corpus for single documents",
            where=str(place),
            next_command=command("data", "stats", "--in", place),
        )
    above = place.resolve().parent
    is_model = place.resolve().name == "model" and (place / "manifest.json").is_file()
    if not is_model or not (above / "dataset" / "manifest.json").is_file():
        return place
    return place.parent if place.name == "model" else above
