"""Every command of ours in the documents and templates is one that the command line has, with options that it takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from openwright.cli import app

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("*.md", "docs/*.md", "release/templates/*", "configs/*/*.yaml", "configs/clusters/*.yaml")
COMMAND = re.compile(r"(?m)^\s*\$? *openwright ([a-z][^\n#]*)|`openwright ([a-z][^`]*)`")


def documented():
    """Path and command, without `openwright`, of each mention that begins a line or stands in backquotes."""
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            for found in COMMAND.finditer(path.read_text(encoding="utf-8")):
                yield path.relative_to(ROOT).as_posix(), found[1] or found[2]


def problem_of(text):
    """What is wrong with a command; empty where nothing is."""
    words = shlex.split(re.sub(r"[\[\]]", " ", text.partition(" > ")[0]))
    command, at = typer.main.get_command(app), 0
    while hasattr(command, "commands"):
        if at == len(words) or words[at] not in command.commands:
            return f"no command {' '.join(words[: at + 1])}" if at < len(words) else ""
        command, at = command.commands[words[at]], at + 1
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    options = [word.partition("=")[0] for word in words[at:] if word.startswith("--")]
    return "".join(f"{command.name} has no {option}" for option in options if option not in known)


def test_the_documents_name_commands_and_options_that_there_are():
    mentions = list(documented())
    assert len(mentions) > 60
    assert not [(place, text, problem) for place, text in mentions if (problem := problem_of(text))]


@pytest.mark.parametrize("text", ["frobnicate x", "inspect weights 3", "verify BUNDLE --expected DIGEST"])
def test_one_that_is_not_there_is_found(text):
    assert problem_of(text)
