"""What commands print: tables and check results for people, or one JSON document on standard output."""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from provenance.errors import ConfigError

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_UNVERIFIED = 3
NOTE = "note"
"""Check of results that are shown and are no part of the verdict: what anyone could have put there."""


def exit_code_of(verdicts: Sequence[str]) -> int:
    """0 when all passed, 1 for any FAIL, 3 for any UNVERIFIED without a FAIL, and 3 when nothing was checked."""
    if "FAIL" in verdicts:
        return EXIT_FAIL
    if "UNVERIFIED" in verdicts or not verdicts:
        return EXIT_UNVERIFIED
    return EXIT_PASS


def check_records(results: Sequence[Any]) -> list[dict[str, str]]:
    """Check results in the form that `--json` prints."""
    return [
        {
            "check": str(result.check),
            "name": str(result.name),
            "verdict": str(result.verdict),
            "detail": str(result.detail),
            "where": str(result.where),
        }
        for result in results
    ]


def verdicts_of(records: Sequence[dict[str, str]]) -> list[str]:
    """The verdicts that count: not those of notes."""
    return [record["verdict"] for record in records if record["check"] != NOTE]


def check_lines(records: Sequence[dict[str, str]]) -> list[str]:
    """Check results as lines: verdict, check and name, then why and where; notes say so in place of a verdict."""
    lines = []
    titles = [r["name"] if r["check"] == NOTE else f"{r['check']}: {r['name']}" for r in records]
    width = max(map(len, titles), default=0)
    for record, title in zip(records, titles, strict=True):
        place = f" ({record['where']})" if record["where"] else ""
        verdict = NOTE if record["check"] == NOTE else record["verdict"]
        lines.append(f"{verdict:<10}  {title.ljust(width)}  {record['detail']}{place}".rstrip())
    return lines


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A plain table: columns padded, the first and the last to the left, numbers between them to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        first, *numbers, last = (
            cell.ljust(width) if index in (0, len(row) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *numbers, last)).rstrip())
    return lines


def printable(text: str) -> str:
    """Replace what is not printable: texts of a stranger's bundle must not steer the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def print_json(value: Any) -> None:
    """Print the one JSON document of a command, strict: no NaN, keys sorted."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def require_folder(path: Path) -> None:
    """Refuse a file that the command line named, to be written, in a directory that is not there.

    Raises:
        ConfigError: naming the directory.
    """
    if not path.parent.is_dir():
        following = f"mkdir -p {shlex.quote(str(path.parent))}"
        expected = f"the directory of {path.name}"
        raise ConfigError("no such directory", expected=expected, where=str(path.parent), next_command=following)


def write_named(path: Path, text: str) -> None:
    """Write a file that the command line named, in a directory that is there.

    Raises:
        ConfigError: when the directory is not there.
    """
    require_folder(path)
    path.write_text(text, encoding="utf-8")


@contextmanager
def stdout_kept_clean(active: bool) -> Iterator[None]:
    """While work goes on, send everything that anyone prints, child processes too, to standard error.

    Only then is the document that `--json` prints afterwards alone on standard output.
    """
    if not active:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
