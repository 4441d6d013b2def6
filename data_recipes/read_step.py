"""Step `read`: one part of a source becomes a part file; what needs one document only is decided here."""

from collections import Counter
from dataclasses import replace
from typing import Any

from data_recipes.bpe import special_tokens_of, take_tokenizer
from data_recipes.build import Build
from data_recipes.decisions import FORGOTTEN, LICENCE, LICENCE_EVIDENCE, Judge
from data_recipes.document import Document, ExtractedDocument
from data_recipes.documents import Decision, document_row
from data_recipes.function_text import redact_functions, summaries_in
from data_recipes.line_rules import Thinned, take_lines_out
from data_recipes.near_duplicates import signature
from data_recipes.part_files import PartWriter
from data_recipes.personal_data import redact
from data_recipes.readers import open_source, reading_context
from data_recipes.reading import PartReport, SourcePart
from data_recipes.settings import CorpusConfig, Source
from data_recipes.tasks import SCRATCH, Outputs
from data_recipes.text_kernels import segment
from data_recipes.text_reading import read_text
from provenance.canonical import Json
from provenance.digests import sha256_bytes
from provenance.errors import DataError, SourceError


def part_path(number: int) -> str:
    """Path of the part file of a task, below the build."""
    return f"{SCRATCH}/read/{number:05d}.parquet"


def read_part(build: Build, value: Json, outputs: Outputs) -> Json:
    """Read a part; `value` is `{number, source, part}`.

    Returns:
        The part's report as JSON, with `num_documents`, `size_bytes` and the licences found.

    Raises:
        DataError: for a document that does not name the source or a rule of its own, and one in place that is to be
            forgotten.
        SourceError: as the source's reader, and where a file vanishes while it is read.
    """
    (source,) = (source for source in build.config.sources if source.name == value["source"])
    part, report = SourcePart(**value["part"]), PartReport()
    special_tokens = control_tokens(build.config)
    judge = Judge(build.config)
    num_documents = size_bytes = 0
    licences: Counter[str] = Counter()
    with outputs.file(part_path(value["number"])) as path, PartWriter(path) as writer:
        for extracted in _documents(build, source, part, report):
            row = _row(build.config, source, extracted, special_tokens, judge)
            writer.add(row)
            num_documents += 1
            size_bytes += row["size_bytes"]
            licences[row["licence_spdx"]] += 1
    return {
        **report.as_json(),
        "num_documents": num_documents,
        "size_bytes": size_bytes,
        "licences": sorted(licences),
    }


def control_tokens(config: CorpusConfig) -> tuple[str, ...]:
    """Every string that the tokenizer will read as a control token: a document that spells one is dropped."""
    if config.tokenizer.file is None:
        return config.tokenizer.special_tokens.in_order()
    return special_tokens_of(take_tokenizer(config.tokenizer, config.execution))


def _documents(build: Build, source: Source, part: SourcePart, report: PartReport) -> Any:
    try:
        yield from open_source(source, reading_context(build.config)).read(part, report)
    except FileNotFoundError as error:
        raise SourceError(
            f"source {source.name!r}: a file vanished while part {part.name!r} was read",
            expected="files that stay where they are until the corpus is built",
            where=str(error.filename or ""),
            next_command="put the file back and run the same command again; what is done is kept",
        ) from None


def _row(
    config: CorpusConfig, source: Source, extracted: ExtractedDocument, special_tokens: tuple[str, ...], judge: Judge
) -> dict[str, Any]:
    document = extracted.document
    if document.source != source.name:
        raise DataError(f"a document of source {document.source!r}", expected=source.name, where=document.path)
    thinned = _thin(config, source, document.text)
    if thinned is not None and thinned.removed:
        extracted = _with_text(extracted, thinned.text)
        extracted = replace(extracted, functions=summaries_in(thinned.text, extracted.functions))
    reading = read_text(extracted.document.text, special_tokens)
    rules, redacted_from = config.personal_data, ""
    if rules.action == "redact" and extracted.functions:
        text, spans = extracted.document.text, reading.personal_data
        functions = redact_functions(extracted.functions, text, spans, rules.kinds)
        extracted = replace(extracted, functions=functions)
    if rules.action == "redact" and any(span.kind in rules.kinds for span in reading.personal_data):
        redaction = redact(extracted.document.text, reading.personal_data, rules.kinds)
        redacted_from = redaction.sha256_before
        extracted = _with_text(extracted, redaction.text)
    document = extracted.document
    decision, licence_chosen = judge.decide(extracted, reading.statistics)
    not_applied = decision.rule if document.token_place else ""
    if not_applied:
        decision = _kept_in_place(document, not_applied)
    row = document_row(document, reading.statistics, decision, licence_chosen, source.split)
    row["rule_not_applied"] = not_applied
    if document.token_place is not None:
        row["num_tokens"] = document.token_place.end - document.token_place.first
    row["text"], row["functions"] = (None, []) if decision.rule else (document.text, _functions(extracted))
    row["signals"] = [vars(signal) for signal in extracted.signals]
    row["personal_data"] = [vars(span) for span in reading.personal_data]
    row["redacted_from"] = redacted_from
    if thinned is not None and thinned.removed:
        row["lines_removed"] = [vars(removed) for removed in thinned.removed]
        row["lines_removed_from"] = thinned.sha256_before
    row["signature"] = None
    if config.near_duplicates is not None and not decision.rule:
        segments = segment(document.text) if redacted_from else reading.segments
        row["signature"] = signature(segments.terms.hashes, config.near_duplicates.shingle_words).tobytes()
    return row


def _kept_in_place(document: Document, rule: str) -> Decision:
    """Keep a document in place that a rule would drop.

    Raises:
        DataError: for a rule that does not only judge it: it was to be forgotten, or may not be used.
    """
    if rule in (FORGOTTEN, LICENCE, LICENCE_EVIDENCE):
        raise DataError(
            f"document {document.document_id} is to be dropped by the rule {rule!r}, and is read in place",
            expected="documents of which each is kept: their tokens stand in a file that is taken as it is",
            where=document.path,
            next_command=f"in_place: false for source {document.source!r}, or leave the file out",
        )
    return Decision()


def _thin(config: CorpusConfig, source: Source, text: str) -> Thinned | None:
    """The text without the lines that the recipe takes out; None where it leaves the source alone."""
    rules = config.lines
    if rules is None or (rules.sources is not None and source.name not in rules.sources):
        return None
    return take_lines_out(text, rules)


def _with_text(extracted: ExtractedDocument, text: str) -> ExtractedDocument:
    document = replace(extracted.document, text=text, text_sha256=sha256_bytes(text.encode("utf-8")))
    return replace(extracted, document=document)


def _functions(extracted: ExtractedDocument) -> list[dict[str, str]]:
    return [
        {"qualified_name": function.qualified_name, "signature": function.signature, "summary": function.summary}
        for function in extracted.functions
    ]
