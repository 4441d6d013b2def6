"""Fetching files of repositories into a bundle's directory: several at a time, each checked before it is put there.

A bundle holds plain files and nothing else, and the library's own cache is made of links; so files are fetched into a
directory beside the bundle, compared with the size and sha256 that the manifest lists, and moved. What lies in the
bundle's directory is therefore whole, and a fetch that was cut off goes on with the files that are missing.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from openwright.hub import Repository, download
from provenance.console import Progress, fact, progress
from provenance.digests import sha256_file
from provenance.durability import sync_path
from provenance.errors import BundleError, ConfigError, StoppedForRequeue

_NUM_WORKERS = 8


@dataclass(frozen=True, eq=False)
class WantedFile:
    """A file to fetch.

    Attributes:
        place: path in the bundle, such as `model/config.json`.
        sha256: what a manifest lists; None for what no manifest lists.
    """

    repository: Repository
    path: str
    place: str
    size_bytes: int
    sha256: str | None


def fetch_files(files: Sequence[WantedFile], bundle: Path, *, silently: bool = False) -> None:
    """Fetch those of some files that the bundle's directory does not hold yet.

    Args:
        silently: say nothing of sizes and progress; for single small files.

    Raises:
        BundleError: when there is no room, a file cannot be fetched, or is not the listed one.
    """
    if not _missing(files, bundle):
        return
    with _sole_fetcher(bundle) as incoming:
        files = _missing(files, bundle)  # another process may have fetched some meanwhile
        total_bytes = sum(file.size_bytes for file in files)
        free_bytes = shutil.disk_usage(bundle.parent).free
        if not silently:
            fact(f"fetching {len(files):,} files, {total_bytes:,} bytes, to {bundle} ({free_bytes:,} bytes are free)")
        if total_bytes > free_bytes:
            raise BundleError(
                f"{total_bytes:,} bytes to fetch and {free_bytes:,} bytes free",
                expected="room for the files",
                where=str(bundle),
                next_command="free some space, or the same command with --cache DIR",
            )
        with nullcontext() if silently else progress("fetched", total_bytes, "bytes") as bar:
            _fetch_all(files, bundle, incoming, Counted(bar))


def _missing(files: Sequence[WantedFile], bundle: Path) -> list[WantedFile]:
    """Files that are not there in their size: only whole ones were put there, and `verify` reads them again."""
    sizes = {file: path.stat().st_size for file in files if (path := bundle / file.place).is_file()}
    return [file for file in files if sizes.get(file) != file.size_bytes]


class Counted:
    """Counts the bytes of all downloads, and ends them all when one has failed or the user wants to stop."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar, self._lock, self.stopped = bar, Lock(), Event()

    def add(self, num_bytes: int) -> None:
        """Count some bytes more; negative where the library begins a file anew."""
        if self.stopped.is_set():
            raise StoppedForRequeue("the download was stopped", next_command="the same command again; it goes on")
        with self._lock:
            if self._bar and num_bytes:
                self._bar.advance(num_bytes)


class FileCounter:
    """One download's part of the count, with the methods of a progress bar that the library calls."""

    def __init__(self, counted: Counted) -> None:
        self._counted, self.num_bytes = counted, 0

    def __call__(self, **options: Any) -> "FileCounter":
        """The library makes its bar: this one."""
        return self

    def __enter__(self) -> "FileCounter":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, num_bytes: int) -> None:
        """Some bytes have come."""
        self.num_bytes += num_bytes
        self._counted.add(num_bytes)

    def update_transfer(self, num_bytes: int) -> None:
        """Some bytes have come over the wire, which are counted when they are written."""

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        """A rate that is not shown."""

    set_transfer_postfix_str = set_postfix_str


def _fetch_all(files: Sequence[WantedFile], bundle: Path, incoming: Path, counted: Counted) -> None:
    pool = ThreadPoolExecutor(_NUM_WORKERS)
    try:
        largest_first = sorted(files, key=lambda file: -file.size_bytes)
        futures = [pool.submit(_fetch_one, file, bundle, incoming, counted) for file in largest_first]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        counted.stopped.set()
        pool.shutdown(cancel_futures=True)


def _fetch_one(file: WantedFile, bundle: Path, incoming: Path, counted: Counted) -> None:
    counter = FileCounter(counted)
    path = download(file.repository, file.path, incoming / file.repository.kind, counter)
    counted.add(file.size_bytes - counter.num_bytes)  # what the library had in its own cache was not counted
    where, size_bytes = f"{file.repository}: {file.path}", path.stat().st_size
    if path.is_symlink() or size_bytes != file.size_bytes:
        raise BundleError(f"{size_bytes:,} bytes came", expected=f"{file.size_bytes:,} bytes", where=where)
    found = sha256_file(path)
    if file.sha256 not in (None, found):
        raise BundleError(f"sha256 {found}", expected=f"sha256 {file.sha256}, as listed", where=where)
    target = bundle / file.place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sync_path(path)
        os.replace(path, target)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise BundleError("a directory is listed as a file", expected="one of them", where=where) from None


@contextmanager
def _sole_fetcher(bundle: Path) -> Iterator[Path]:
    """Directory for incoming files, held by one process at a time; the lock of a dead process is gone with it."""
    incoming, lock_path = (bundle.with_name(f"{bundle.name}.{suffix}") for suffix in ("incoming", "lock"))
    try:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        told = f"no directory to write to ({error.strerror})"
        raise ConfigError(told, where=str(bundle.parent), next_command="the same command with --cache DIR") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fact(f"another process is fetching this bundle to {bundle}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            yield incoming
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
