"""Decisions that need one document only: takedown, decoding, signals of web sites, licence policy, quality rules."""

from data_recipes.document import ExtractedDocument
from data_recipes.documents import Decision
from data_recipes.filters import QUALITY_RULES, Statistics, broken_rule
from data_recipes.policy import credit_lines, decide_licence
from data_recipes.rule_settings import CONTAMINATED, NEAR_DUPLICATE, REPEATED_TEXT
from data_recipes.settings import CorpusConfig
from data_recipes.text import READING_RULES
from data_recipes.warc_settings import SIGNAL_RULES

FORGOTTEN = "taken down"
LICENCE = "licence"
LICENCE_EVIDENCE = "licence_evidence"
DUPLICATE = "duplicate"
RULES = (
    *(FORGOTTEN, *READING_RULES, *SIGNAL_RULES, LICENCE, LICENCE_EVIDENCE),
    *(*QUALITY_RULES, DUPLICATE, CONTAMINATED, NEAR_DUPLICATE, REPEATED_TEXT),
)
"""Names of all rules that can drop a document, in the order in which they are applied."""


class Judge:
    """Decides what becomes of a document before it is compared with others."""

    def __init__(self, config: CorpusConfig) -> None:
        self._config = config
        self._forgotten = {digest for entry in config.forget for digest in (entry.document_id, entry.text_sha256)}

    def decide(self, extracted: ExtractedDocument, statistics: Statistics) -> tuple[Decision, str]:
        """Return the decision, and the licence that the policy chose (empty where it allows none)."""
        document, finding = extracted.document, extracted.document.licence
        licence = decide_licence(finding.spdx, self._config.policy, is_credited=bool(credit_lines(finding.copyright)))
        if self._forgotten and self._forgotten & {document.document_id, document.text_sha256}:
            return Decision(FORGOTTEN), licence.chosen
        if extracted.broken:
            return Decision(extracted.broken), licence.chosen
        if not licence.allowed:
            return Decision(LICENCE), licence.chosen
        if self._config.policy.refuses_evidence(finding.evidence_kind):
            return Decision(LICENCE_EVIDENCE), ""
        broken = broken_rule(statistics, self._config.quality)
        return (Decision(broken.rule, broken.score, broken.threshold) if broken else Decision()), licence.chosen
