"""Repositories of the Hugging Face Hub, read by its own library: what a name means, what is there, and single files.

Where the Hub is, who asks and whether the network may be used is for the library to know: `HF_ENDPOINT`,
`hf auth login`, `HF_HUB_OFFLINE`. What the Hub answers comes from a stranger: names are checked before any is used.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile

from provenance.errors import BundleError, ConfigError
from provenance.hub_errors import hub_errors
from release.verify import MAX_FILES, is_harmless, show

PREFIX = "hf:"
SYNTAX = "hf:ORG/NAME or hf:ORG/NAME@REVISION"
Kind = Literal["model", "dataset"]

_NAME = re.compile(r"hf:([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)(?:@([^\s@]+))?")


class RepositoryMissing(BundleError):
    """The Hub knows no such repository, or does not show it to who asks."""


@dataclass(frozen=True)
class HubName:
    """A repository as people name it: `hf:ORG/NAME`, with `@REVISION` where it is not the default branch."""

    repo_id: str
    revision: str = ""

    def __str__(self) -> str:
        return PREFIX + self.repo_id + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it; the sha256 is known of large files only."""

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, with its files by path."""

    repo_id: str
    kind: Kind
    commit: str
    files: Mapping[str, RemoteFile]

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo_id}@{self.commit}"


def parse_name(text: str, where: str = "command line") -> HubName:
    """Read `hf:ORG/NAME[@REVISION]`.

    Raises:
        ConfigError: for any other text.
    """
    found = _NAME.fullmatch(text)
    if not found:
        raise ConfigError(show(text), expected=SYNTAX, where=where)
    return HubName(found[1], found[2] or "")


def look_up(name: HubName, kind: Kind) -> Repository:
    """Resolve the revision of a name to a commit and list the files of that commit.

    Raises:
        ConfigError: for a name that no repository can have.
        RepositoryMissing: when there is no such repository for who asks.
        BundleError: for an unknown revision, a gated repository, a Hub that cannot be reached, and file names that
            would not stay below a directory.
    """
    api = HfApi()
    with _told(f"{name} ({kind} repository)"):
        commit = api.repo_info(name.repo_id, repo_type=kind, revision=name.revision or None).sha
        if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError(f"commit {commit!r}")
        entries = api.list_repo_tree(name.repo_id, recursive=True, revision=commit, repo_type=kind)
        files = [entry for entry in islice(entries, MAX_FILES) if isinstance(entry, RepoFile)]
        found = {str(file.path): RemoteFile(int(file.size), file.lfs.sha256 if file.lfs else None) for file in files}
    repository = Repository(name.repo_id, kind, commit, found)
    for path in found:
        if not is_harmless(path):
            told = f"the repository lists a file with the name {show(path)}"
            raise BundleError(told, expected="short relative paths that stay below a directory", where=str(repository))
    return repository


def download(repository: Repository, path: str, directory: Path, counter: Any) -> Path:
    """Fetch one file of a repository into a directory, where the library puts files of its own besides.

    Args:
        counter: what the library makes in place of a tqdm progress bar.

    Raises:
        BundleError: as `look_up`.
    """
    with _told(f"{repository}: {path}"):
        found: str = hf_hub_download(
            repository.repo_id,
            path,
            repo_type=repository.kind,
            revision=repository.commit,
            local_dir=directory,
            tqdm_class=counter,
        )
        return Path(found)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what the library raises into errors that say what to do."""
    try:
        with hub_errors(where, BundleError, RepositoryMissing, SYNTAX):
            yield
    except HFValidationError as error:
        raise ConfigError(show(str(error)), expected=SYNTAX, where=where) from None
