"""The rule table `rules.yaml`: rules with their clause, evidence paths, check and who decides."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provenance.digests import FileEntry, hash_files, sha256_file, tagged_digest
from provenance.errors import ReleaseError
from release.layout import bundle_files, matching

RULES_FILE = Path(__file__).with_name("rules.yaml")
RULES_FORMAT = "openwright-rules/1"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        clause: source with a short quotation.
        evidence: path patterns in the bundle layout.
        check: name of the function in `release.rules.CHECKS`.
        decides: `program`, `human`, or `both` where a program may find that a person has to answer.
        severity: `must`, `should` or `info`.
    """

    id: str
    profile: str
    clause: str
    requirement: str
    evidence: tuple[str, ...]
    check: str
    decides: str
    severity: str


@dataclass(frozen=True)
class RuleTable:
    """All rules with the version and date of the table and the digest of its file."""

    version: str
    date: str
    sha256: str
    profiles: dict[str, str]
    rules: tuple[Rule, ...]

    def rule(self, rule_id: str) -> Rule:
        """Return a rule by its identifier.

        Raises:
            ReleaseError: for an unknown one.
        """
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        expected = "an identifier of the rule table, as model/openness/verdict.json has them"
        raise ReleaseError(f"no rule {rule_id!r}", expected=expected, where="rules.yaml")


def load_rules() -> RuleTable:
    """Read the rule table of the running code."""
    values: dict[str, Any] = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))
    assert values["format"] == RULES_FORMAT
    rules = tuple(Rule(**{**row, "evidence": tuple(row["evidence"])}) for row in values["rules"])
    profiles = {str(name): str(title) for name, title in values["profiles"].items()}
    return RuleTable(values["version"], str(values["date"]), sha256_file(RULES_FILE), profiles, rules)


def evidence_paths(paths: Iterable[str], rule: Rule) -> list[str]:
    """Bundle-relative paths that a rule reads, of all paths of a bundle.

    The root manifest and what is made over it come after every verdict and are no evidence.
    """
    later = ("model/manifest.", "model/attestations/")
    return [path for path in matching(paths, rule.evidence) if not path.startswith(later)]


def evidence_digest(entries: Iterable[FileEntry]) -> str:
    """Digest `evidence/1` of the files that a rule reads: what a person's statement is bound to."""
    return tagged_digest("evidence/1", [entry.as_json() for entry in sorted(entries)])


def bundle_evidence_digest(bundle: Path, rule: Rule) -> str:
    """Digest `evidence/1` of a rule on a bundle."""
    paths = [path.relative_to(bundle).as_posix() for path in bundle_files(bundle)]
    return evidence_digest(hash_files(bundle, [bundle / path for path in evidence_paths(paths, rule)]))
