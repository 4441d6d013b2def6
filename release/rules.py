"""Evaluate the openness rules on a bundle: evidence for each clause, never a certificate.

The verdict is a pure function of the bundle's results, documents made before it, and statements. It reads neither
the root manifest nor the cards and page of `model/`, which come after it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json
from provenance.errors import OpenwrightError
from release import rule_checks, rule_checks_code, rule_checks_data
from release.facts import BundleFacts
from release.licence_terms import table_version
from release.rule_checks import FAIL, NEEDS_STATEMENT, PASS, UNKNOWN, Finding
from release.rule_table import Rule, RuleTable, evidence_digest, evidence_paths, load_rules
from release.statements import Statement, read_statement, statement_command

VERDICT_FORMAT = "openwright-verdict/1"
NOTICE = (
    "Evidence for the clauses of a definition, found by a program; not a certificate and not legal advice. "
    "The Open Source Initiative does not review individual systems."
)
EVIDENCE_COMPLETE, EVIDENCE_MISSING = "evidence complete", "evidence missing"
STATEMENT_NEEDED, CONFLICT = "needs statement", "conflict"

CHECKS: dict[str, Callable[[BundleFacts], Finding]] = {
    check.__name__: check
    for check in (
        rule_checks.artifact_files,
        rule_checks.signature,
        rule_checks.one_name,
        rule_checks.code_that_ran,
        rule_checks.lineage,
        rule_checks.safe_weights,
        rule_checks.no_secrets,
        rule_checks.final_weights,
        rule_checks.replay,
        rule_checks.statements_complete,
        rule_checks.use_terms,
        rule_checks.inspectable,
        rule_checks.modify_terms,
        rule_checks.share_terms,
        rule_checks.no_use_policy,
        rule_checks.not_gated,
        rule_checks.scope_declared,
        rule_checks.licence_texts,
        rule_checks.one_expression,
        rule_checks.upstream_terms,
        rule_checks.data_information_terms,
        rule_checks.parameter_terms,
        rule_checks.free_availability,
        rule_checks_data.data_read,
        rule_checks_data.data_provenance,
        rule_checks_data.data_scope,
        rule_checks_data.data_selection,
        rule_checks_data.data_labelling,
        rule_checks_data.data_processing,
        rule_checks_data.data_location,
        rule_checks_data.data_obtainable,
        rule_checks_data.data_class,
        rule_checks_data.open_data_shared,
        rule_checks_data.unshareable_data,
        rule_checks_data.sufficient_for_skilled_person,
        rule_checks_data.data_preserved,
        rule_checks_code.data_code,
        rule_checks_code.training_code,
        rule_checks_code.evaluation_code,
        rule_checks_code.supporting_libraries,
        rule_checks_code.search_code,
        rule_checks_code.inference_code,
        rule_checks_code.code_terms,
        rule_checks_code.restart,
        rule_checks_code.open_dependencies,
        rule_checks_code.parameters_present,
        rule_checks_code.intermediate_checkpoints,
    )
}
"""Name of a check in the rule table: its function."""


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule.

    Attributes:
        conflict: a statement that is malformed, speaks about other evidence, or contradicts the program.
        statement: the statement that decided, if one did.
    """

    rule: Rule
    result: str
    reason: str
    num_files: int
    evidence_digest: str
    conflict: bool = False
    statement: Statement | None = None

    def as_json(self) -> dict[str, Json]:
        """Return the form that `verdict.json` holds."""
        said = self.statement
        return {
            "id": self.rule.id,
            "profile": self.rule.profile,
            "clause": self.rule.clause,
            "requirement": self.rule.requirement,
            "decides": self.rule.decides,
            "severity": self.rule.severity,
            "result": self.result,
            "reason": self.reason,
            "conflict": self.conflict,
            "evidence": {
                "paths": list(self.rule.evidence),
                "num_files": self.num_files,
                "digest": self.evidence_digest,
            },
            "statement": {"name": said.name, "role": said.role, "date": said.date} if said else None,
            "command": statement_command(self.rule.id) if self.result == NEEDS_STATEMENT else None,
        }


@dataclass(frozen=True)
class Verdict:
    """All rule results of a bundle with the verdict per profile."""

    name: str
    version: str
    dev: bool
    content_digest: str
    table: RuleTable
    results: tuple[RuleResult, ...]

    def profile(self, profile: str) -> dict[str, Json]:
        """Verdict of a profile, with the rules that keep it from being complete."""
        rows = [result for result in self.results if result.rule.profile == profile]
        musts = [result for result in rows if result.rule.severity == "must"]
        missing = [result.rule.id for result in musts if result.result in (FAIL, UNKNOWN)]
        needed = [result.rule.id for result in musts if result.result == NEEDS_STATEMENT]
        conflicts = [result.rule.id for result in rows if result.conflict]
        verdict = EVIDENCE_COMPLETE
        for word, found in ((STATEMENT_NEEDED, needed), (EVIDENCE_MISSING, missing), (CONFLICT, conflicts)):
            verdict = word if found else verdict
        return {
            "profile": profile,
            "title": self.table.profiles[profile],
            "verdict": verdict,
            "counts": dict(Counter(result.result for result in rows)),
            "missing": missing,
            "conflicts": conflicts,
            "statements_needed": needed,
            "not_shown": [r.rule.id for r in rows if r.rule.severity != "must" and r.result in (FAIL, UNKNOWN)],
        }

    def as_json(self) -> dict[str, Json]:
        """Return `verdict.json`."""
        return {
            "format": VERDICT_FORMAT,
            "name": self.name,
            "version": self.version,
            "dev": self.dev,
            "is_release": not self.dev,
            "content_digest": self.content_digest,
            "notice": NOTICE,
            "rules": {"version": self.table.version, "date": self.table.date, "sha256": self.table.sha256},
            "licence_table": table_version(),
            "profiles": [self.profile(profile) for profile in self.table.profiles],
            "results": [result.as_json() for result in self.results],
        }


def evaluate_rules(bundle: Path, facts: BundleFacts | None = None) -> Verdict:
    """Evaluate every rule on a bundle.

    Args:
        bundle: the directory that holds `model/` and `dataset/`.
        facts: what has been read of it; by default it is read here.
    """
    facts, table = facts or BundleFacts(bundle), load_rules()
    statements, problems = _read_statements(bundle, table)
    results = [evaluate_rule(rule, facts, statements.get(rule.id)) for rule in table.rules]
    stale = [
        f"the statement on {r.rule.id} speaks about other evidence or is contradicted" for r in results if r.conflict
    ]
    found = [*problems, *stale]
    if found:
        results = [_as_conflict(result, found[0]) if result.rule.id == "BND-10" else result for result in results]
    components = facts.components
    return Verdict(components["name"], components["version"], facts.dev, facts.content_digest, table, tuple(results))


def _as_conflict(result: RuleResult, reason: str) -> RuleResult:
    return RuleResult(result.rule, FAIL, reason, result.num_files, result.evidence_digest, conflict=True)


def _read_statements(bundle: Path, table: RuleTable) -> tuple[dict[str, Statement], list[str]]:
    found, problems = {}, []
    human = {rule.id for rule in table.rules if rule.decides != "program"}
    for path in sorted((bundle / "model" / "openness" / "statements").glob("*")):
        try:
            statement = read_statement(path)
        except OpenwrightError as error:
            problems.append(f"{path.name}: {error.found}")
            continue
        if statement.rule not in human:
            problems.append(f"{path.name}: no person decides that rule")
        found[statement.rule] = statement
    return found, problems


def evaluate_rule(rule: Rule, facts: BundleFacts, statement: Statement | None = None) -> RuleResult:
    """Evaluate one rule.

    Args:
        statement: what a person stated about it, if anyone did.
    """
    paths = evidence_paths(facts.paths, rule)
    digest, count = evidence_digest(facts.entry(path) for path in paths), len(paths)
    finding = _finding(rule, facts)
    conflict = statement is not None and (statement.evidence_digest != digest or finding.result == FAIL)
    if statement is None or rule.decides == "program":
        return RuleResult(rule, finding.result, finding.reason, count, digest)
    if conflict:
        reason = finding.reason
        if statement.evidence_digest != digest:
            reason = f"the statement of {statement.date} is about other evidence, {statement.evidence_digest[:12]}"
        return RuleResult(rule, FAIL, reason, count, digest, conflict=True, statement=statement)
    if finding.result != NEEDS_STATEMENT:
        return RuleResult(rule, finding.result, finding.reason, count, digest)
    reason = f"stated by {statement.name}, {statement.role}, on {statement.date}"
    return RuleResult(rule, PASS, reason, count, digest, statement=statement)


def _finding(rule: Rule, facts: BundleFacts) -> Finding:
    """Run a check; evidence that cannot be read is a fail that says so, never an error and never a pass."""
    try:
        return CHECKS[rule.check](facts)
    except OpenwrightError as error:
        where = error.where.replace(f"{facts.bundle}/", "")
        return Finding(FAIL, f"{where}: {error.found}" if where else error.found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
        return Finding(FAIL, f"the evidence is malformed ({type(error).__name__}: {_short(error, facts.bundle)})")


def _short(error: Exception, bundle: Path) -> str:
    return str(error).replace(f"{bundle}/", "").splitlines()[0][:160] if str(error) else ""
