"""Files of data set repositories on the Hugging Face Hub: listed at one commit, fetched on from where it stopped,
and taken only with the digest that the commit holds.

A commit of the Hub is a git commit: it fixes for each file the sha256 of its content (of large files, git-lfs) or its
git blob id, the sha1 of the content behind a header.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers

from provenance.canonical import Json
from provenance.durability import sync_path
from provenance.errors import SourceError
from provenance.hub_errors import hub_errors

_MAX_FILES = 1_000_000
_MAX_PATH_BYTES = 1024
_BLOCK_BYTES = 1 << 20
_SHA1 = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_NAMES = "a data set of the Hub, ORG/NAME"


@dataclass(frozen=True)
class HubFile:
    """A file as its commit holds it.

    Attributes:
        sha256: of the content, where the commit holds it (git-lfs); else empty.
        blob_id: git blob id, where the content is in git itself; else empty.
    """

    path: str
    size_bytes: int
    sha256: str
    blob_id: str

    def as_json(self) -> dict[str, Json]:
        """Return the form that pins it."""
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256, "blob_id": self.blob_id}


@dataclass(frozen=True)
class HubRepository:
    """A data set repository at one commit."""

    repo_id: str
    revision: str

    def __str__(self) -> str:
        return f"data set {self.repo_id}@{self.revision[:12]}"


def list_files(repository: HubRepository) -> dict[str, HubFile]:
    """List the files of a commit by path.

    Raises:
        SourceError: for a repository or a commit that is not there, a Hub that cannot be reached or that answers with
            another commit, paths that would not stay below a directory, and files without a digest.
    """
    with _told(str(repository)):
        api = HfApi()
        found = api.repo_info(repository.repo_id, repo_type="dataset", revision=repository.revision).sha
        if found != repository.revision:
            raise SourceError(
                f"the Hub answers with commit {found!r}", expected=repository.revision, where=str(repository)
            )
        tree = api.list_repo_tree(repository.repo_id, recursive=True, revision=repository.revision, repo_type="dataset")
        entries = [entry for entry in islice(tree, _MAX_FILES + 1) if isinstance(entry, RepoFile)]
        if len(entries) > _MAX_FILES:
            raise SourceError(f"more than {_MAX_FILES:,} files", expected="fewer", where=str(repository))
        return {entry.path: _listed(entry, repository) for entry in entries}


def _listed(entry: RepoFile, repository: HubRepository) -> HubFile:
    path = str(entry.path)
    parts = PurePosixPath(path).parts
    if not path.isprintable() or path.startswith("/") or ".." in parts or len(path.encode()) > _MAX_PATH_BYTES:
        told = f"the repository lists a file with the name {path[:200]!a}"
        raise SourceError(told, expected="short relative paths that stay below a directory", where=str(repository))
    if entry.lfs is not None:
        file = HubFile(path, int(entry.lfs.size), str(entry.lfs.sha256), "")
    else:
        file = HubFile(path, int(entry.size), "", str(entry.blob_id))
    if not (_SHA256.fullmatch(file.sha256) or _SHA1.fullmatch(file.blob_id)) or file.size_bytes < 0:
        raise SourceError(f"the repository lists {path!a} without a digest", where=str(repository))
    return file


def fetch_file(repository: HubRepository, file: HubFile, cache_dir: Path) -> tuple[Path, str]:
    """Return a file of the Hub and its sha256, from the cache or fetched; its digest is checked in either case.

    A download that was cut off goes on where it stopped, also in another process and on another day.

    Args:
        cache_dir: holds `hub/<digest>/<name>`; equal content is fetched once, whatever repository it is in.

    Raises:
        SourceError: when it cannot be fetched or is not what the commit holds.
    """
    place = cache_dir / "hub" / (file.sha256 or f"git-{file.blob_id}")
    target = place / PurePosixPath(file.path).name
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place / ".lock"):
        if target.is_file():
            sha256, problem = _checked(target, file)
            if not problem:
                return target, sha256
            target.unlink()
        partial = place / ".partial"
        _download(repository, file, partial)
        sha256, problem = _checked(partial, file)
        if problem:
            partial.unlink()
            raise SourceError(
                problem,
                expected=f"what the commit holds: {file.sha256 or file.blob_id}",
                where=f"{repository}: {file.path}",
                next_command="the same command again; if it fails again, ask the Hub's operators",
            )
        sync_path(partial)
        os.replace(partial, target)
        return target, sha256


def _download(repository: HubRepository, file: HubFile, partial: Path) -> None:
    """Fetch what is missing of a file, with the library's own requests, retries and credentials."""
    here = partial.stat().st_size if partial.is_file() else 0
    if here > file.size_bytes:
        partial.unlink()
        here = 0
    with _told(f"{repository}: {file.path}"), partial.open("ab") as output:
        url = hf_hub_url(repository.repo_id, file.path, repo_type="dataset", revision=repository.revision)
        http_get(
            url,
            output,
            resume_size=here,
            expected_size=file.size_bytes,
            headers=build_hf_headers(),
            tqdm_class=_Silent,
        )


def _checked(path: Path, file: HubFile) -> tuple[str, str]:
    """Return the sha256 of a file that was fetched, and why it is not the listed one; empty where it is."""
    size_bytes = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            sha256.update(block)
            if file.blob_id:
                blob.update(block)
    if size_bytes != file.size_bytes:
        return "", f"{size_bytes} bytes, not {file.size_bytes}"
    if file.sha256 and sha256.hexdigest() != file.sha256:
        return "", f"sha256 {sha256.hexdigest()}"
    if file.blob_id and blob.hexdigest() != file.blob_id:
        return "", f"git blob id {blob.hexdigest()}"
    return sha256.hexdigest(), ""


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file; that of a dead process is free."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        with hub_errors(where, SourceError, SourceError, _NAMES):
            yield
    except HFValidationError as error:
        raise SourceError(ascii(str(error)[:300])[1:-1], expected=_NAMES, where=where) from None


class _Silent:
    """Stands for the library's progress bar: the corpus stage has its own."""

    def __init__(self, **options: Any) -> None:
        pass

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, num_bytes: int) -> None:
        """Some bytes have come."""
