"""What the library of the Hugging Face Hub raises, as errors that say what was found and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from provenance.errors import DISK_ERRORS, OpenwrightError

_AGAIN = "the same command again, which goes on with the files that are missing"
_LOG_IN = "hf auth login, with an account that may read it, then the same command again"


@contextmanager
def hub_errors(
    where: str, kind: type[OpenwrightError], missing: type[OpenwrightError], name_syntax: str
) -> Iterator[None]:
    """Turn what the library raises in a block into errors of ours; `HFValidationError`, of a bad name, is let through.

    Args:
        where: repository and file.
        kind: the error to raise.
        missing: the error to raise where there is no such repository.
        name_syntax: how repositories are named.
    """
    try:
        yield
    except (OpenwrightError, HFValidationError):
        raise
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError) as error:
        raise _translated(error, where, kind, missing, name_syntax) from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise kind(f"it could not be fetched ({error})", where=where, next_command=_AGAIN) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # the library trusts the shape of answers
        told = f"the answer is not one of a Hub ({_named(error)})"
        raise kind(told, expected="a Hugging Face Hub at HF_ENDPOINT", where=where) from error


def _translated(
    error: BaseException, where: str, kind: type[OpenwrightError], missing: type[OpenwrightError], name_syntax: str
) -> OpenwrightError:
    """The error of ours for one of the library's; it hides the cause of some in another."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        told = "the Hub may not be asked: HF_HUB_OFFLINE is set"
        following = "the command with the directory that an earlier run printed, or without HF_HUB_OFFLINE"
        return kind(told, expected="a Hub, or what was fetched before", where=where, next_command=following)
    if isinstance(error, GatedRepoError):
        told = "the repository is gated, and you are not among those who may read it"
        return kind(told, expected="access, asked for on its page", where=where, next_command=_LOG_IN)
    if isinstance(error, RepositoryNotFoundError):
        told = "there is no such repository, or it is private"
        return missing(told, expected=name_syntax, where=where, next_command=f"look at its name; {_LOG_IN}")
    if isinstance(error, RevisionNotFoundError):
        return kind("there is no such revision", expected="a branch, a tag or a commit of the repository", where=where)
    if isinstance(error, EntryNotFoundError):
        return kind("the Hub lists the file and does not have it", where=where, next_command=_AGAIN)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        following = _LOG_IN if status in (401, 403) else _AGAIN
        return kind(f"the Hub answers with HTTP status {status}", where=where, next_command=following)
    told = f"the Hub cannot be reached ({_named(error)})"
    return kind(told, expected="a network, and a Hub at HF_ENDPOINT", where=where, next_command=_AGAIN)


def _named(error: BaseException) -> str:
    """An error's name and message; the message may be a stranger's."""
    return f"{type(error).__name__}: {ascii(str(error)[:300])[1:-1]}"
