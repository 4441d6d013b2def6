"""What a recipe can reach before anything is run: the rules of openness, as far as config files alone decide them.

The rule table and the checks are those of a finished bundle; they are given what the configs declare in place of a
bundle's files. What only a run can show counts as reachable, so the result is the best that the recipe can get.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.hub_settings import HubSource
from data_recipes.policy import LicencePolicy
from data_recipes.pypi_settings import PypiSource
from data_recipes.settings import CorpusConfig, Source
from provenance.canonical import Json
from provenance.errors import OpenwrightError
from provenance.fingerprint import project_root
from release.components import component_table, licence_text, needed_licence_ids
from release.facts import BundleFacts, SourceFacts
from release.licence_terms import is_copyleft, read_terms
from release.rule_checks import FAIL, NEEDS_STATEMENT, PASS, Finding, failed, passed, terms_of
from release.rule_table import Rule, RuleTable, load_rules
from release.rules import CHECKS, NOTICE, RuleResult, Verdict
from release.settings import ReleaseConfig
from release.sources import class_of, pin_of, tokenizer_licence
from release.statements import statement_command

LATER = "later"
"""A rule that only the run decides; nothing in the configs stands against it."""

FROM_CONFIGS = (
    *("use_terms", "modify_terms", "share_terms", "one_expression", "upstream_terms", "no_use_policy"),
    *("data_information_terms", "parameter_terms", "data_selection", "data_labelling"),
    *("data_provenance", "data_location", "data_obtainable", "data_class", "open_data_shared", "unshareable_data"),
    *("data_preserved", "signature", "replay", "restart", "open_dependencies"),
)
"""Checks of a bundle that need no more than what is declared, or that say the same of every bundle."""

_OF_A_SOURCE = ("data_provenance", "data_location", "data_obtainable", "data_class", "unshareable_data")
_PLACEHOLDER = {"0"}


class DeclaredFacts(BundleFacts):
    """Stands for the bundle that a recipe would make: what the configs declare, and no files.

    Args:
        corpus: the recipe of the corpus.
        release: the recipe of the release.
        empty: an empty directory in the place of the bundle.
        worst: as if a document were kept under every licence that the policy allows, not only under the freest.
    """

    def __init__(self, corpus: CorpusConfig, release: ReleaseConfig, empty: Path, *, worst: bool) -> None:
        super().__init__(empty)
        file = corpus.tokenizer.file
        taken = None if file is None else file.lock_entry(size_bytes=0)
        sets = [] if corpus.decontamination is None else corpus.decontamination.sets
        self.components = component_table(
            release, tokenizer_licence(taken), [file.lock_entry(size_bytes=0) for file in sets], dev=False
        )
        allowed = corpus.policy.identifiers()
        free = [spdx for spdx in allowed if read_terms(spdx).verdict != "not-open" and not is_copyleft(spdx)]
        likely = allowed if worst or not free else free
        self.sources = [
            _declared_source(source, allowed, [] if _is_refused(source, corpus.policy) else likely)
            for source in corpus.sources
        ]
        self.dataset_manifest = {"files": []}
        ships = {source.name for source in self.sources if release.shipping.get(source.name, "text") == "text"}
        self.shipped_documents = Counter((s.name, s.split) for s in self.sources if s.name in ships)


def _is_refused(source: Source, policy: LicencePolicy) -> bool:
    """Whether a source rests on the licence of its card, and the policy takes no such evidence."""
    is_of_card = isinstance(source, HubSource) and source.licence is None and source.licence_column is None
    return is_of_card and policy.refuses_evidence("hf-card")


def _declared_source(source: Source, allowed: Sequence[str], likely: Sequence[str]) -> SourceFacts:
    """A source as if one document were kept under the licence that it states, or under each of the likely ones."""
    entry: dict[str, Any] = source.model_dump()
    # What is measured when the source is read, and cannot be missing then.
    entry |= {"schema": "later", "statistics": "later"}
    if isinstance(source, PypiSource):
        # The archive's own licence decides its class when it is read; its place is the package index.
        entry = {"osaid_class": "open", "obtain": "the package index", **entry}
    else:
        entry |= {"obtain": source.place, "files": [{"sha256": pin} for pin in source.pins]}
    stated = getattr(source, "licence", None)
    kept = Counter(likely) if stated is None else Counter([stated.spdx] if stated.spdx in allowed else [])
    return SourceFacts(source.name, entry, split=source.split, num_kept=1, licences_chosen=kept)


@dataclass(frozen=True)
class Outlook:
    """The best results that a recipe can reach.

    Attributes:
        table: the rules.
        findings: per rule of the table what the configs say at best, in order.
        risks: rules that end worse if text is kept under a licence that the policy allows.
        sources: per source what stands in its way.
        facts: what is declared.
    """

    table: RuleTable
    findings: tuple[tuple[Rule, Finding], ...]
    risks: tuple[tuple[Rule, Finding], ...]
    sources: dict[str, list[str]]
    facts: DeclaredFacts

    def as_json(self) -> dict[str, Json]:
        """The section `openness` of a plan."""
        table = self.table
        declared = self.facts.components
        results = tuple(
            RuleResult(rule, PASS if found.result == LATER else found.result, found.reason, 0, "")
            for rule, found in self.findings
        )
        verdict = Verdict(declared["name"], declared["version"], False, "", table, results)
        rows = [(rule, found) for rule, found in self.findings if found.result not in (PASS, LATER)]
        return {
            "notice": NOTICE,
            "rules_version": table.version,
            "rules_date": table.date,
            "profiles": [_best(verdict.profile(profile)) for profile in table.profiles],
            "rules": [_row(rule, found) for rule, found in rows],
            "risks": [_row(rule, found) for rule, found in self.risks],
            "num_decided_by_the_run": sum(found.result == LATER for _, found in self.findings),
            "parts": [
                {"name": part["name"], "licence": part["licence"], "terms": read_terms(part["licence"]).reason}
                for part in declared["components"]
            ],
            "sources": [
                {
                    "name": source.name,
                    "class": class_of(source.lock),
                    "is_pinned": _is_pinned(source),
                    "problems": self.sources[source.name],
                }
                for source in self.facts.sources
            ],
            "base_models": declared["upstreams"],
            "hyperparameter_search": declared["hyperparameter_search"],
        }


def _best(profile: dict[str, Json]) -> dict[str, Json]:
    return {
        "profile": profile["profile"],
        "title": profile["title"],
        "best_verdict": profile["verdict"],
        "missing": profile["missing"],
        "statements_needed": profile["statements_needed"],
    }


def _row(rule: Rule, found: Finding) -> dict[str, Json]:
    command = statement_command(rule.id) if found.result == NEEDS_STATEMENT else None
    return {
        "id": rule.id,
        "result": found.result,
        "severity": rule.severity,
        "requirement": rule.requirement,
        "reason": found.reason,
        "command": command,
    }


def openness_outlook(corpus: CorpusConfig, release: ReleaseConfig) -> Outlook:
    """Evaluate every rule on what the configs declare."""
    with tempfile.TemporaryDirectory(prefix="openwright-outlook-") as empty:
        facts = DeclaredFacts(corpus, release, Path(empty), worst=False)
        careless = DeclaredFacts(corpus, release, Path(empty), worst=True)
        table = load_rules()
        findings = tuple((rule, _foresee(rule, facts)) for rule in table.rules)
        otherwise = ((rule, _foresee(rule, careless)) for rule in table.rules)
        risks = tuple(
            (rule, risk)
            for (rule, risk), (_, best) in zip(otherwise, findings, strict=True)
            if risk.result != best.result
        )
        sources = {source.name: _source_problems(source, facts) for source in facts.sources}
    return Outlook(table, findings, risks, sources, facts)


def _foresee(rule: Rule, facts: DeclaredFacts) -> Finding:
    if rule.decides == "human":
        return Finding(NEEDS_STATEMENT, "a person answers this, whatever the configs say")
    if rule.check in _OWN:
        return _OWN[rule.check](facts)
    if rule.check not in FROM_CONFIGS:
        return Finding(LATER, "decided by the run")
    try:
        return CHECKS[rule.check](facts)
    except (OpenwrightError, OSError, KeyError) as error:
        return Finding(LATER, f"decided by the run ({type(error).__name__})")


def _source_problems(source: SourceFacts, facts: DeclaredFacts) -> list[str]:
    """Everything that stands in a source's way, not only the first problem of each rule."""
    problems = []
    if not _is_pinned(source):
        problems.append("its sha256 is a row of zeros: not pinned")
    if not source.licences_chosen:
        problems.append("the policy allows no licence that it states: every document is dropped")
    alone = DeclaredFacts.__new__(DeclaredFacts)
    alone.__dict__ = {**facts.__dict__, "sources": [source]}
    for check in _OF_A_SOURCE:
        found = CHECKS[check](alone)
        if found.result in (FAIL, NEEDS_STATEMENT):
            problems.append(found.reason.removeprefix(f"{source.name} "))
    return problems


def _is_pinned(source: SourceFacts) -> bool:
    """Whether every file of a source has a digest that is no placeholder."""
    return all(set(pin) != _PLACEHOLDER for pin in pin_of(source.lock).split(", "))


# ---------------------------------------------------------- rules whose check of a bundle looks at files of the bundle


def _pinned(facts: DeclaredFacts) -> Finding:
    for source in facts.sources:
        if not _is_pinned(source):
            return failed(f"{source.name} has a row of zeros in the place of its sha256")
    return CHECKS["data_provenance"](facts)


def _not_gated(facts: DeclaredFacts) -> Finding:
    gated = [channel["location"] for channel in facts.components["distribution"] if channel["gated"]]
    return failed(f"access is gated at {gated[0]}") if gated else passed("no declared place of distribution is gated")


def _licence_texts(facts: DeclaredFacts) -> Finding:
    lacking = [spdx for spdx in needed_licence_ids(facts) if licence_text(spdx) is None]
    if lacking:
        return failed(f"the project holds no text of {', '.join(lacking)}, which the policy or a part names")
    return passed("the project holds the text of every licence that may be needed")


def _search_code(facts: DeclaredFacts) -> Finding:
    search = facts.components["hyperparameter_search"]
    if not search["used"]:
        return CHECKS["search_code"](facts)
    place = search["code_path"]
    if not (project_root() / place).exists():
        return failed(f"the code of the hyperparameter search, {place}, is not in the source tree")
    return passed(f"{place} will be shipped")


def _code_terms(facts: DeclaredFacts) -> Finding:
    finding = terms_of(facts, "code")
    return finding if finding.result == PASS else failed(f"not under an OSI-approved licence: {finding.reason}")


_OWN: dict[str, Callable[[DeclaredFacts], Finding]] = {
    "data_provenance": _pinned,
    "not_gated": _not_gated,
    "licence_texts": _licence_texts,
    "search_code": _search_code,
    "code_terms": _code_terms,
}
