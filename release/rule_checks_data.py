"""Checks of the rules about data information."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from data_recipes.chat_settings import rows_split
from provenance.digests import tagged_digest
from release.chat_counts import wrong_chat_counts
from release.facts import BundleFacts, SourceFacts
from release.licence_terms import read_terms
from release.rule_checks import NEEDS_STATEMENT, NOT_APPLICABLE, UNKNOWN, Finding, failed, first_problem, passed
from release.sources import class_of, evaluation_sets, location_of, pin_of

CLASSES = ("open", "public", "obtainable", "unshareable")
_PLACEHOLDERS = ("todo", "tbd", "fill in", "lorem ipsum", "xxx")


def data_read(facts: BundleFacts) -> Finding:
    """OSAID-D1."""
    return first_problem(_reading_problems(facts), "every step read this corpus, from declared sources")


def _reading_problems(facts: BundleFacts) -> Iterator[str]:
    for stage in facts.training_stages:
        ledger = facts.ledgers[stage]
        order = ledger.start["order"]
        split = facts.token_table["splits"].get(order["split"])
        if split is None:
            yield f"stage {stage} read split {order['split']!r}, which tokens.json lacks"
            continue
        if order["tokens_digest"] != split["digest"]:
            yield f"stage {stage} read other token shards than those of this corpus"
        if tokens_digest(split) != split["digest"]:
            yield f"the digest of split {order['split']!r} does not follow from its shards"
        declared = {source["name"] for source in split["sources"]}
        for name in sorted({s["name"] for s in order["sources"]} | set(ledger.tokens_by_source)):
            if name not in declared or name not in facts.lock:
                yield f"stage {stage} read {name}, which is no declared source"
    corpus = {entry["path"]: entry["sha256"] for entry in facts.dataset_manifest["corpus"]["results"]}
    for split in facts.token_table["splits"].values():
        for source in split["sources"]:
            for file in (file for shard in source["shards"] for file in shard["files"].values()):
                if corpus.get(file["path"]) != file["sha256"]:
                    yield f"{file['path']} in tokens.json is not the file that the corpus recorded"


def tokens_digest(split: dict[str, Any]) -> str:
    """Digest `tokens/1` of a split of `tokens.json`."""
    sources = []
    for source in split["sources"]:
        shards = [
            {
                "num_tokens": shard["num_tokens"],
                "files": {role: file["sha256"] for role, file in shard["files"].items()},
            }
            for shard in source["shards"]
        ]
        sources.append({"name": source["name"], "shards": shards})
    return tagged_digest("tokens/1", {**{key: split[key] for key in ("layout", "dtype", "width")}, "sources": sources})


def data_provenance(facts: BundleFacts) -> Finding:
    """OSAID-D2."""
    for source in facts.sources:
        if not source.lock:
            return failed(f"{source.name} has documents and no entry in sources.lock")
        if not pin_of(source.lock):
            return failed(f"{source.name} is not pinned by a digest")
        if not location_of(source.lock) and class_of(source.lock) in ("open", "public"):
            return failed(f"{source.name} names no origin")
    return passed(f"{len(facts.sources)} sources, each pinned by sha256")


def data_scope(facts: BundleFacts) -> Finding:
    """OSAID-D3."""
    return first_problem(_scope_problems(facts), "stated counts equal those of the rows")


def _scope_problems(facts: BundleFacts) -> Iterator[str]:
    kept = sum(source.num_kept for source in facts.sources)
    dropped = sum(source.num_dropped for source in facts.sources)
    stated = facts.corpus["num_documents"]
    if (stated["kept"], stated["dropped"]) != (kept, dropped):
        yield f"corpus.json states {stated['kept']} kept, {stated['dropped']} dropped; the rows say {kept}, {dropped}"
    if kept == 0:
        yield "no document was kept"
    totals = {source["name"]: source for source in facts.corpus["sources"]}
    for source in facts.sources:
        if source.lock.get("type") != "chat":
            yield from _source_scope_problems(source, totals.get(source.name))
    yield from _chat_scope_problems(facts)


def _chat_scope_problems(facts: BundleFacts) -> Iterator[str]:
    """Conversations and pairs from files are counted by split, and have no rows in `documents/`."""
    stated = facts.corpus.get("chats", {}).get("splits", {})
    for source in facts.sources:
        if source.lock.get("type") == "chat":
            split = rows_split(*(str(source.lock.get(key)) for key in ("kind", "split")))
            if split not in stated:
                yield f"corpus.json has no totals of the split {split!r}, which {source.name} is part of"
    for split, totals in stated.items():
        written = facts.token_table["splits"].get(split, {"sources": []})["sources"]
        for key, of_shards in (("num_rows", "num_documents"), ("num_tokens", "num_tokens")):
            if totals[key] != (counted := sum(source[of_shards] for source in written)):
                yield f"corpus.json states {key} of the split {split!r} as {totals[key]}, the shards have {counted}"
    yield from wrong_chat_counts(facts.dataset, stated)


def _source_scope_problems(source: SourceFacts, stated: dict[str, Any] | None) -> Iterator[str]:
    if stated is None:
        yield f"corpus.json has no totals of {source.name}"
        return
    counted = {"num_documents": source.num_kept, "num_tokens": source.kept_tokens, "size_bytes": source.kept_bytes}
    for key, value in counted.items():
        if _stated_number(stated, key) != value:
            yield f"corpus.json states {key} of {source.name} as {_stated_number(stated, key)}, the rows say {value}"


def _stated_number(stated: dict[str, Any], key: str) -> object:
    value = stated.get(key)
    return value.get("kept") if isinstance(value, dict) else value


def data_selection(facts: BundleFacts) -> Finding:
    """OSAID-D4."""
    return _described(facts, "selection", 40)


def data_labelling(facts: BundleFacts) -> Finding:
    """OSAID-D5."""
    return _described(facts, "labelling", 20)


def _described(facts: BundleFacts, field: str, min_characters: int) -> Finding:
    text = str(facts.components["data"].get(field, "")).strip()
    if len(text) < min_characters:
        return failed(f"the description of {field} is missing or too short")
    if any(placeholder in text.lower() for placeholder in _PLACEHOLDERS):
        return failed(f"the description of {field} holds placeholder text")
    card = " ".join((facts.dataset / "README.md").read_text(encoding="utf-8").split())
    if " ".join(text.split()) not in card:
        return failed(f"the data card does not give the description of {field}")
    return passed("described in the data card; whether it suffices is part of OSAID-D12")


def data_processing(facts: BundleFacts) -> Finding:
    """OSAID-D6."""
    return first_problem(_processing_problems(facts), "steps chain by their counts; recipe and decisions are shipped")


def step_counts(step: dict[str, Any]) -> tuple[int, int]:
    """Documents in and out of a processing step."""
    return step["rows_in"], step["rows_out"]


def _processing_problems(facts: BundleFacts) -> Iterator[str]:
    steps = facts.corpus["steps"]
    if not steps:
        yield "corpus.json names no processing steps"
    for before, after in pairwise(steps):
        num_before, num_after = step_counts(before)[1], step_counts(after)[0]
        if num_before != num_after:
            yield f"step {after['name']} begins with {num_after} rows, {before['name']} ended with {num_before}"
    if not facts.dataset_manifest["corpus"]["recipe"]:
        yield "the corpus manifest holds no recipe"
    for source in facts.sources:
        if "" in source.drops or None in source.drops:
            yield f"documents of {source.name} were dropped by no named rule"
    if not list((facts.dataset / "documents").glob("documents-*.parquet")):
        yield "documents/ holds no rows"
    for entry in evaluation_sets(facts.dataset):
        if entry["shipping"] == "reference" and not entry["obtain"]:
            yield f"the evaluation set {entry['name']} is not carried, and nothing says where it can be obtained"


def data_location(facts: BundleFacts) -> Finding:
    """OSAID-D7."""
    sources = [source for source in facts.sources if class_of(source.lock) in ("open", "public")]
    if not sources:
        return Finding(NOT_APPLICABLE, "no source is open or public")
    for source in sources:
        if not location_of(source.lock):
            return failed(f"{source.name} does not say where to obtain it")
    return passed(f"{len(sources)} sources, each with its place")


def data_obtainable(facts: BundleFacts) -> Finding:
    """OSAID-D8."""
    sources = [source for source in facts.sources if class_of(source.lock) == "obtainable"]
    if not sources:
        return Finding(NOT_APPLICABLE, "no source is of the class obtainable")
    for source in sources:
        lacking = [key for key in ("vendor", "fee") if source.lock.get(key) in (None, "")]
        if lacking or not location_of(source.lock):
            return failed(f"{source.name} does not state {lacking[0] if lacking else 'where to obtain it'}")
    return passed(f"{len(sources)} sources with vendor, place and fee")


def data_class(facts: BundleFacts) -> Finding:
    """OSAID-D9."""
    for source in facts.sources:
        declared = class_of(source.lock)
        if declared not in CLASSES:
            return failed(f"{source.name} has class {declared!r}, none of {', '.join(CLASSES)}")
        for licence in sorted(source.licences_chosen) if declared == "open" else ():
            if read_terms(licence).verdict == "not-open":
                return failed(f"{source.name} is classed open and keeps documents under {licence}")
    return passed("each source has a class; open ones keep only documents under open licences")


def open_data_shared(facts: BundleFacts) -> Finding:
    """OSAID-D10."""
    shipped = {entry["path"] for entry in facts.dataset_manifest["files"]}
    held = {path.relative_to(facts.dataset).as_posix() for path in (facts.dataset / "text").glob("*.parquet")}
    if not held <= shipped:
        return failed("text/ holds a file that the dataset manifest does not list")
    referenced = 0
    for source in facts.sources:
        if class_of(source.lock) != "open" or not source.num_kept:
            continue
        ships_text = facts.components["shipping"].get(source.name, "text") == "text"
        if ships_text and not _text_of(facts, source.name, source.split, source.num_kept):
            return failed(f"not all kept text of {source.name} is in text/")
        if not ships_text and not (location_of(source.lock) and pin_of(source.lock)):
            return failed(f"{source.name} is neither shipped nor at a pinned public place")
        referenced += not ships_text
    how = f"; {referenced} sources by reference to a pinned public place" if referenced else ""
    return passed(f"the text of open sources is in the bundle{how}")


def _text_of(facts: BundleFacts, name: str, split: str, num_documents: int) -> bool:
    taken_down = sum((document.source, document.split) == (name, split) for document in facts.forgotten)
    return facts.shipped_documents.get((name, split), 0) == num_documents - taken_down


def unshareable_data(facts: BundleFacts) -> Finding:
    """OSAID-D11."""
    sources = [source for source in facts.sources if class_of(source.lock) == "unshareable"]
    if not sources:
        return Finding(NOT_APPLICABLE, "no source is of the class unshareable")
    for source in sources:
        lacking = [key for key in ("reason", "schema", "statistics") if not source.lock.get(key)]
        if lacking:
            return failed(f"{source.name} does not state {lacking[0]}")
    return Finding(NEEDS_STATEMENT, f"{sources[0].name} is unshareable; a person states why")


def sufficient_for_skilled_person(facts: BundleFacts) -> Finding:
    """OSAID-D12."""
    if not (facts.dataset / "README.md").is_file() or not facts.sources:
        return failed("there is no data card or no source to speak about")
    return Finding(NEEDS_STATEMENT, "whether the data information is sufficient, a person says who read it")


def data_preserved(facts: BundleFacts) -> Finding:
    """OSAID-D14."""
    missing = [
        source.name
        for source in facts.sources
        if source.num_kept and not _text_of(facts, source.name, source.split, source.num_kept)
    ]
    if missing:
        return Finding(UNKNOWN, f"the text of {missing[0]} is not in the bundle, and no archive is named")
    return passed("the text of every kept document is in the bundle")
