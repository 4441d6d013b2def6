"""The contract between sources and the corpus stage: a source has parts, each read alone, one document at a time.

`data_recipes/readers.py` names the reader of every type of source; CONTRIBUTING.md says how to add one.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import Field

from data_recipes.document import ExtractedDocument
from provenance.canonical import Json
from provenance.config import Config


def is_wanted(path: str, keep: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether a recipe takes a path of a source.

    Args:
        keep: globs of paths to read; none reads all. `*` also crosses directories.
        skip: globs of paths to leave out.
    """
    if keep and not any(fnmatch.fnmatchcase(path, glob) for glob in keep):
        return False
    return not any(fnmatch.fnmatchcase(path, glob) for glob in skip)


class ReadingLimits(Config):
    """How much of a source is taken; part of the recipe, because it decides what is kept.

    Attributes:
        max_document_bytes: a document of more bytes is dropped by the rule `oversized`, and its text is not kept.
    """

    max_document_bytes: int = Field(default=32 * 2**20, ge=1)


@dataclass(frozen=True)
class ReadingContext:
    """What a reader may know besides its own section of the recipe. Paths never enter a result.

    Attributes:
        cache_dir: where fetched files are kept, by their digest.
        data_dir: directory that the paths of local files are relative to.
        tokenizer_file: where the tokenizer that the corpus takes lies, where it is not below `data_dir`.
        index_url: package index to fetch from; None for the default one.
        debian_archive: Debian archive to fetch from; None where none is named.
        keep_fetched: whether large files that were fetched stay in the cache once they are read.
    """

    limits: ReadingLimits
    cache_dir: Path
    data_dir: Path
    tokenizer_file: Path | None = None
    index_url: str | None = None
    debian_archive: str | None = None
    keep_fetched: bool = True


@dataclass(frozen=True)
class SourcePart:
    """A piece of a source that one process reads alone: an archive, a data file, a row range of a large file.

    Attributes:
        name: unique in the source; says what it is to a person, such as `data/rows-003.jsonl`.
        size_bytes: about how much there is to read; larger parts are begun first.
        pin: all that decides what the part yields besides the recipe and the code: digests of its files, ranges.
            Never a path of this machine, a date or a size that was only observed.
    """

    name: str
    size_bytes: int
    pin: Json

    def as_json(self) -> dict[str, Json]:
        """Return the form in which a part goes to another process."""
        return {"name": self.name, "size_bytes": self.size_bytes, "pin": self.pin}


@dataclass
class PartReport:
    """What reading a part amounted to besides its documents; the reader fills it in while it reads.

    Attributes:
        num_files: files of an archive or rows of a data file that were looked at.
        skipped: how many of them gave no document, by reason.
        facts: what `SourceReader.lock` has to know of this part, as JSON; the same at every reading.
    """

    num_files: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    facts: Json = None

    def as_json(self) -> dict[str, Json]:
        """Return the form that is kept beside a part's documents."""
        return {"num_files": self.num_files, "skipped": dict(sorted(self.skipped.items())), "facts": self.facts}

    @staticmethod
    def from_json(values: Json) -> "PartReport":
        """Read what `as_json` returned."""
        return PartReport(values["num_files"], Counter(values["skipped"]), values["facts"])


class SourceReader(Protocol):
    """Reads one source. It is built anew in each process from the source's section of the recipe and a context."""

    def parts(self) -> Sequence[SourcePart]:
        """List the parts, each name once, in an order that follows from the recipe.

        Called once, in one process, before anything is read. What is fetched whole is fetched here; what streams is
        not.

        Raises:
            SourceError: for what is missing, cannot be fetched or is not what the recipe pins.
        """
        ...

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the documents of one part; no more than a few of them are in memory at a time.

        The same part gives the same documents in the same order in any process. Documents that were yielded count
        only when the iterator ends without an error, so a stream may be hashed on the way and refused at its end.

        Args:
            report: counts files and reasons; `facts` for the lock.

        Raises:
            SourceError: for what is missing or is not what the recipe pins.
            DataError: for a part that cannot be read.
        """
        ...

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the source's entry in `sources.lock`, given the reports of its parts in order."""
        ...
