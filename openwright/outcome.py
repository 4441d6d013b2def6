"""What all commands share around their work: the frame in which a signal stops it, and how the outcome is printed."""

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from openwright.options import ARTIFACTS
from openwright.report import print_json, printable
from provenance.errors import StoppedForRequeue

REPORT_FORMAT = "openwright-report/1"


def command(*words: object, overrides: Sequence[str] = (), store: Path = ARTIFACTS) -> str:
    """A command of ours to be pasted into a shell.

    Args:
        words: arguments; what a shell would take apart is quoted.
        overrides: texts of `--set`, without which another thing would be made.
        store: directory of all artifacts; named where it is not the default.
    """
    options = [word for text in overrides for word in ("--set", text)]
    options += [] if store == ARTIFACTS else ["--artifacts", str(store)]
    return shlex.join(["openwright", *map(str, words), *options])


def finish(document: dict[str, Any], lines: Sequence[str], following: str, as_json: bool) -> None:
    """Print what a command found, for people or as one JSON document, and the one thing to do next."""
    if as_json:
        print_json({**document, "next": following})
        return
    for line in lines:
        print(printable(line))
    print(printable(f"next: {following}"))
    sys.stdout.flush()


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into exit code 75: finished stages stay, others go on when run again."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedForRequeue(
            f"stopped by {signal.Signals(number).name}", next_command="run the same command again; it goes on"
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
