"""How the errors of a command reach the user: in words with the next command, and with a traceback only for bugs."""

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from provenance.errors import DISK_ERRORS, ConfigError, OpenwrightError

_EXIT_FAIL = 1

_GROUPS = ("data", "inspect", "release")
"""Commands that have commands."""

_PLACES = {
    errno.EACCES: ("permission denied", "a place that you may read and write"),
    errno.EPERM: ("the system does not permit it", "a place that you may read and write"),
    errno.ENOTDIR: ("a part of this path is no directory", "a directory"),
    errno.EEXIST: ("a file of this name is there", "a directory, or a new name"),
    errno.EISDIR: ("a directory", "a file"),
    errno.ENAMETOOLONG: ("a name that is too long for this file system", "a shorter one"),
}
"""What is wrong with a place, by the number of an OSError, and what was expected there."""


def run_shown(run: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; what goes wrong is told on standard error.

    Args:
        arguments: those of the command line; with `--json` among them an error is one JSON document on standard output
            as well.
    """
    try:
        return run()
    except OpenwrightError as error:
        return _show(error, arguments)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):
            print(message, file=sys.stderr)
            return error.exit_code
        context = getattr(error, "ctx", None)
        following = f"{context.command_path if context else 'openwright'} --help"
        return _show(ConfigError(message, where="command line", next_command=following), arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _EXIT_FAIL
    except OSError as error:
        mendable = _in_words(error)
        return _show_bug() if mendable is None else _show(mendable, arguments)
    except Exception:
        return _show_bug()


def _in_words(error: OSError) -> OpenwrightError | None:
    """The error in words where the user can mend it: a full disk, or a named place that cannot be used."""
    place = str(error.filename or "")
    if error.errno in DISK_ERRORS:
        return OpenwrightError(
            f"the disk is {DISK_ERRORS[error.errno]}",
            expected="free space for artifacts and checkpoints",
            where=place or "artifacts",
            next_command="make room and run the same command again; it goes on from what is there",
        )
    if error.errno in _PLACES and place:
        found, expected = _PLACES[error.errno]
        following = "the same command once this is mended, or with another place"
        return OpenwrightError(found, expected=expected, where=place, next_command=following)
    return None


def _show(error: OpenwrightError, arguments: Sequence[str]) -> int:
    if isinstance(error, ConfigError) and not error.next_command:
        following = _mending(error.where, arguments)
        error = ConfigError(error.found, expected=error.expected, where=error.where, next_command=following)
    if "--json" in arguments:
        from openwright.report import print_json

        document = {"format": "openwright-error/1", "error": type(error).__name__, "exit_code": error.exit_code}
        fields = ("found", "expected", "where", "next_command")
        print_json({**document, **{name: getattr(error, name) for name in fields}})
    print(f"openwright: {error}", file=sys.stderr)
    return error.exit_code


def _mending(where: str, arguments: Sequence[str]) -> str:
    """What comes next after a mistake of the user's that has no advice of its own."""
    if ".yaml" in where:
        return "mend the file there and run the same command again"
    verb = list(arguments[: 2 if arguments[0] in _GROUPS else 1])
    return shlex.join(["openwright", *verb, "--help"])


def _show_bug() -> int:
    traceback.print_exc()
    print("openwright: this is a bug; please report it with the lines above and the command", file=sys.stderr)
    return _EXIT_FAIL
