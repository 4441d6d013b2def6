"""Asking before a stranger's code runs."""

import sys
from collections.abc import Sequence

from openwright.report import printable
from provenance.errors import ConfigError


def ask(lines: Sequence[str], *, yes: bool) -> None:
    """Show what is about to happen and ask whether it may.

    Args:
        lines: what is about to happen.
        yes: show it, but take the answer for given.

    Raises:
        ConfigError: when the answer is no, or nobody is there to give one.
    """
    for line in lines:
        print(printable(line), file=sys.stderr)
    sys.stderr.flush()
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "nobody can be asked: standard input is no terminal",
            expected="--yes, if this code may run here",
            where="command line",
            next_command="the same command with --yes; openwright verify runs nothing from a bundle",
        )
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was run", expected="y as the answer, or --yes", where="command line")
