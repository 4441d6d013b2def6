"""Statements by people: signed-off answers to what no program decides, each bound to the evidence it speaks about."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provenance.errors import BundleError, ConfigError
from release.code_copy import STATEMENTS_FOLDER
from release.rule_table import bundle_evidence_digest, load_rules

STATEMENT_FORMAT = "openwright-statement/1"
_FIELDS = ("format", "rule", "name", "role", "date", "evidence_digest", "text")


@dataclass(frozen=True)
class Statement:
    """A person's statement for one rule.

    Attributes:
        evidence_digest: digest of the files that the rule read when the person spoke.
    """

    rule: str
    name: str
    role: str
    date: str
    evidence_digest: str
    text: str


def statement_command(rule: str) -> str:
    """The exact command that makes a statement for a rule."""
    return f'openwright release statement {rule} --bundle BUNDLE --name "..." --role "..." --config-dir CONFIG_DIR'


def write_statement(rule: str, bundle: Path, name: str, role: str, text: str, date: str, config_dir: Path) -> Path:
    """Write `<config_dir>/statements/<RULE>.yaml`; the next build of the release picks it up.

    Args:
        rule: identifier of a rule that a person decides.
        name: the person who answers; `role` is their function in the project.
        text: the statement in the person's own words.
        date: ISO date of the statement.

    Raises:
        ConfigError: for a rule that no person decides, an empty field or a malformed date.
        ReleaseError: for an unknown rule.
    """
    found = load_rules().rule(rule)
    if found.decides == "program":
        expected = "a rule that asks for a statement, as model/openness/verdict.json lists them"
        raise ConfigError(f"rule {rule} is decided by the program", expected=expected, where="command line")
    fields = {"format": STATEMENT_FORMAT, "rule": rule, "name": name.strip(), "role": role.strip(), "date": date}
    fields |= {"evidence_digest": bundle_evidence_digest(bundle, found), "text": text.strip()}
    problem = _problem(fields)
    if problem:
        expected = "a name, a role, a date such as 2026-11-24, and a sentence of their own"
        raise ConfigError(problem, expected=expected, where="command line")
    path = config_dir / STATEMENTS_FOLDER / f"{rule}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
    return path


def read_statement(path: Path) -> Statement:
    """Read a statement file.

    Raises:
        BundleError: when it is not a complete statement for the rule that its file name says.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BundleError("not readable as a statement", expected="YAML in UTF-8", where=path.name) from error
    problem = _problem(values)
    if not problem and values["rule"] != path.stem:
        problem = f"it speaks about {values['rule']}"
    if problem:
        raise BundleError(problem, expected=f"a {STATEMENT_FORMAT} file for rule {path.stem}", where=path.name)
    return Statement(**{key: values[key] for key in _FIELDS if key != "format"})


def _problem(values: Any) -> str:
    if not isinstance(values, dict) or set(values) != set(_FIELDS):
        return "the fields are not those of a statement"
    if values["format"] != STATEMENT_FORMAT:
        return f"format {values['format']!r}"
    empty = [key for key in _FIELDS if not isinstance(values[key], str) or not values[key].strip()]
    if empty:
        return f"field {empty[0]!r} is empty or not text"
    try:
        datetime.date.fromisoformat(values["date"])
    except ValueError:
        return f"date {values['date']!r} is not an ISO date"
    return ""
