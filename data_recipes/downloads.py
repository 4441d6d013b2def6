"""Pinned files from a web server: fetched once by their sha256, kept in a cache, never taken half or altered."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from provenance.console import fact, progress
from provenance.digests import sha256_file
from provenance.errors import SourceError

ATTEMPTS = 4
_BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = (10.0, 60.0)
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class PinnedFile:
    """A file of which all is known but its bytes.

    Attributes:
        where: the source it belongs to, for messages.
        server: what gives it, for messages, such as `the index`.
    """

    filename: str
    sha256: str
    size_bytes: int
    where: str
    server: str


class Incomplete(Exception):
    """A download that is worth another attempt."""


def fetch_pinned(pin: PinnedFile, cache_dir: Path, find_url: Callable[[requests.Session], str]) -> Path:
    """Return a pinned file, from the cache or from its server; its sha256 is checked in either case.

    Args:
        cache_dir: holds `<sha256>/<filename>`.
        find_url: finds out where the file is; called for every attempt.

    Raises:
        SourceError: where there is no such file, it is not the pinned one, it cannot be fetched or not be written.
    """
    target = cache_dir / pin.sha256 / pin.filename
    if target.is_file():
        if sha256_file(target) == pin.sha256:
            return target
        fact(f"{pin.filename}: the cached file was changed and is fetched again")
        target.unlink()
    last = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(_BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            return _download(pin, target, find_url)
        except Incomplete as error:
            last = str(error)
    raise SourceError(
        f"not fetched after {ATTEMPTS} attempts ({last})",
        expected=f"a connection to {pin.server}",
        where=pin.where,
        next_command="check the network and run the same command again; what was fetched before is kept",
    )


def _download(pin: PinnedFile, target: Path, find_url: Callable[[requests.Session], str]) -> Path:
    try:
        with requests.Session() as session:
            url = find_url(session)
            with session.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
                if response.status_code >= 500 or response.status_code == 429:
                    raise Incomplete(f"{pin.server} answered {response.status_code}")
                if not response.ok:
                    raise SourceError(f"{pin.server} answered {response.status_code}", where=pin.where)
                return _store(pin, target, response)
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise Incomplete(f"{pin.server} answered {status}") from error
    except requests.RequestException as error:
        raise Incomplete(type(error).__name__) from error


def wrong_digest(pin: PinnedFile, found: str) -> SourceError:
    """Return the error for a file of another digest."""
    return SourceError(
        f"sha256 of {pin.filename} is {found}",
        expected=pin.sha256,
        where=pin.where,
        next_command="find out why the file differs before you change the pin in corpus.yaml",
    )


def _store(pin: PinnedFile, target: Path, response: requests.Response) -> Path:
    """Write the body beside its place in the cache, check it, and move it into place in one step."""
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".partial-", dir=target.parent)
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            size_bytes = _copy(pin, response, file.write)
            file.flush()
            os.fsync(file.fileno())
        if size_bytes < pin.size_bytes:
            raise Incomplete(f"{size_bytes} of {pin.size_bytes} bytes came")
        found = sha256_file(partial)
        if found != pin.sha256:
            raise wrong_digest(pin, found)
        os.replace(partial, target)
        return target
    except requests.RequestException:
        raise
    except OSError as error:
        raise SourceError(
            f"cannot write the download ({error.strerror})",
            expected=f"{pin.size_bytes} free bytes that may be written",
            where=str(target.parent),
            next_command="free some space or set another cache directory, then run the same command again",
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _copy(pin: PinnedFile, response: requests.Response, write: Callable[[bytes], int]) -> int:
    size_bytes = 0
    with progress(pin.filename, pin.size_bytes, "bytes") as bar:
        for chunk in response.iter_content(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > pin.size_bytes:
                raise SourceError(
                    f"{pin.filename} is larger than pinned",
                    expected=f"{pin.size_bytes} bytes",
                    where=pin.where,
                    next_command="find out why the file differs before you change the pin in corpus.yaml",
                )
            write(chunk)
            bar.advance(len(chunk))
    return size_bytes
