"""`openwright verify`: everything that `verify.py` checks, and what needs libraries.

Verdicts are PASS, FAIL and UNVERIFIED. A document that this program would write otherwise is a FAIL when this program
is the one in the bundle's `code/`, and UNVERIFIED when it is another version: the bytes then prove nothing.
"""

import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_recipes.evaluation_sets import CARRIED_SETS
from data_recipes.settings import TAKEN_TOKENIZER
from data_recipes.tombstones import TOMBSTONES_NAME
from eval.rescore import rescore
from provenance.canonical import read_json
from provenance.digests import sha256_bytes
from provenance.errors import OpenwrightError
from provenance.fingerprint import PACKAGES, sources_digest
from release.average_check import check_average, has_average
from release.bundle_limits import obstacle, unread_ledger
from release.code_identity import judge_code
from release.documents import dataset_documents, model_documents, terms_documents
from release.evaluation_sets_check import check_evaluation_sets
from release.facts import BundleFacts
from release.known_formats import unknown_version
from release.order_check import compare_order
from release.tokenizer_check import check_taken_tokenizer
from release.tolerance_check import check_tolerance, tolerance_files
from release.tombstone_check import check_tombstones
from release.verify import CheckResult, verify_bundle

Maker = Callable[[BundleFacts], dict[str, bytes]]

_INDEX_ROW = struct.Struct("<32s32sIHHHBBI")
_RECORDS = "records"
_COLUMNS = ["document_id", "text_sha256", "num_tokens", "source", "licence_spdx", "decision", "rule", "split"]


def verify_release(
    bundle: Path, *, expect: str | None, tokens: str, key: Path | None = None, attesters: Sequence[Path] = ()
) -> list[CheckResult]:
    """Run all offline checks on a bundle.

    Args:
        bundle: the directory that holds `model/` and `dataset/`, or a model repository by itself.
        expect: manifest digest from a place that you trust, or None.
        tokens: how many token digests to recompute: `sample`, `all` or `none`.
        key: public key of the publisher, from a place that you trust, or None.
        attesters: public keys of people whose replays you trust.

    Raises:
        ConfigError: for files that are no public keys.
    """
    results = _with_signatures(bundle, expect, tokens, key, attesters)
    barred = obstacle(bundle, results)
    with _laid_out(bundle) as place:
        left_open = (_RECORDS, "code", "UNVERIFIED")
        if barred is None:
            results = [judge_code(place, r) if (r.check, r.name, r.verdict) == left_open else r for r in results]
        return [*results, *_with_libraries(place, results, barred)]


@contextmanager
def _laid_out(bundle: Path) -> Iterator[Path]:
    """The bundle; of a model repository by itself, a directory whose `model` leads there."""
    if (bundle / "model").is_dir() or not (bundle / "manifest.json").is_file():
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="openwright-verify-") as directory:
        (Path(directory) / "model").symlink_to(bundle.resolve(), target_is_directory=True)
        yield Path(directory)


def _with_libraries(
    bundle: Path, found: Sequence[CheckResult], barred: tuple[str, str] | None
) -> Iterator[CheckResult]:
    """The checks that need libraries.

    Args:
        found: what `verify.py` found.
        barred: what keeps libraries away from all files, and where.
    """
    has_dataset = (bundle / "dataset" / "manifest.json").is_file()
    texts = ("dataset/documents/", "model/openness/components")
    facts = BundleFacts(bundle)  # for all checks: ledgers and tables are long, and read once
    make = lru_cache(maxsize=1)(model_documents)  # two checks compare what it makes, and it reads all of the bundle
    order = partial(check_order, facts=facts)
    verdict, documents = (partial(check, facts=facts, make=make) for check in (check_verdict, check_documents))
    checks: list[tuple[str, str, tuple[str, ...], Callable[[Path], CheckResult]]] = [
        ("document rows", "dataset/documents", ("dataset/documents/",), check_rows),
        ("texts", "dataset/text", texts, check_texts),
        ("order by numpy", "model/training", ("model/training/",), order),
        ("evaluation rescored", "model/evaluation", ("model/evaluation/",), check_evaluation),
        ("openness verdict", "model/openness/verdict.json", ("model/", "dataset/"), verdict),
        ("generated documents", "model/README.md", ("model/", "dataset/"), documents),
    ]
    if (bundle / "dataset" / TOMBSTONES_NAME).is_file():
        checks.append(("tombstones", "dataset/tombstones.json", ("dataset/",), check_tombstones))
    if (bundle / "dataset" / TAKEN_TOKENIZER).is_file():
        checks.append(("taken tokenizer", f"dataset/{TAKEN_TOKENIZER}", ("dataset/",), check_taken_tokenizer))
    if (bundle / "dataset" / CARRIED_SETS).is_dir():
        where = f"dataset/{CARRIED_SETS}"
        checks.append(("evaluation sets", where, ("dataset/", "model/openness/components"), check_evaluation_sets))
    if has_average(bundle):
        checks.append(("average recomputed", "model/training/average", ("model/training/average/",), check_average))
    if tolerance_files(bundle):
        checks.append(("tolerance", "model/training", ("model/training/",), check_tolerance))
    for name, where, reads, check in checks:
        other = barred or unknown_version(bundle, *reads) or (unread_ledger(found) if check is order else None)
        if any(path.startswith("dataset/") for path in reads) and not has_dataset:
            yield CheckResult(_RECORDS, name, "UNVERIFIED", "the dataset is not here", where)
        elif other is not None:
            yield CheckResult(_RECORDS, name, "UNVERIFIED", *other)
        else:
            yield _guarded(name, where, check, bundle)


def _with_signatures(
    bundle: Path, expect: str | None, tokens: str, key: Path | None, attesters: Sequence[Path]
) -> list[CheckResult]:
    """Results of `verify.py`, and of what only a program with cryptography can check."""
    signed_files = [bundle / place / name for place in (".", "model") for name in ("manifest.sig", "attestations")]
    if key is None and not attesters and not any(path.exists() for path in signed_files):
        results = verify_bundle(bundle, expect=expect, tokens=tokens)
    else:
        from release.signed_checks import check_signed, load_keys  # loads much that an unsigned bundle has no need of

        given = load_keys(key, attesters)
        results = check_signed(bundle, verify_bundle(bundle, expect=expect, tokens=tokens), given)
    unsigned = "" if any(result.name == "signature" for result in results) else "; the bundle is not signed"
    return [replace(r, detail=r.detail + unsigned) if r.name == "identity" else r for r in results]


def _guarded(name: str, where: str, check: Callable[[Path], CheckResult], bundle: Path) -> CheckResult:
    """Turn evidence that cannot be read into a FAIL: a hostile bundle must not end the program."""
    try:
        return check(bundle)
    except OpenwrightError as error:
        return CheckResult(_RECORDS, name, "FAIL", error.found, error.where.replace(f"{bundle}/", "") or where)
    except Exception as error:  # libraries raise what they like on files that are not what they should be
        return CheckResult(_RECORDS, name, "FAIL", f"malformed ({type(error).__name__}: {error})"[:200], where)


def _result(name: str, where: str, problem: str | None, detail: str) -> CheckResult:
    return CheckResult(_RECORDS, name, "FAIL" if problem else "PASS", problem or detail, where)


def check_rows(bundle: Path) -> CheckResult:
    """The fixed-width index and the Parquet rows say the same of every document."""
    folder = bundle / "dataset" / "documents"
    codes = read_json(folder / "codes.json")
    index = _index_rows(folder, codes)
    rows = map(_row_values, _parquet_rows(folder, "documents-*.parquet", _COLUMNS))
    problem, last, num_rows = None, "", 0
    for coded, row in zip_longest(index, rows):
        if coded is None or row is None:
            problem = f"the index has {'more' if row is None else 'fewer'} rows than the table"
        elif coded != row:
            problem = f"row {num_rows} (document {row[0][:12]}) differs between index and table"
        elif row[0] <= last:
            problem = "the rows are not sorted by document id"
        if problem:
            break
        num_rows, last = num_rows + 1, row[0]
    return _result("document rows", "dataset/documents", problem, f"{num_rows:,} rows equal those of the index")


def _index_rows(folder: Path, codes: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for path in sorted(folder.glob("index-*.bin")):
        for fields in _unpacked(path):
            document_id, text, num_tokens, source, licence, decision, split, *_ = fields
            yield (
                document_id.hex(),
                text.hex(),
                num_tokens,
                codes["sources"][source],
                codes["licences"][licence],
                codes["decisions"][decision],
                codes["splits"][split],
            )


def _unpacked(path: Path) -> Iterator[tuple[Any, ...]]:
    with path.open("rb") as file:
        while block := file.read(_INDEX_ROW.size * 8192):
            yield from _INDEX_ROW.iter_unpack(block)


def _row_values(row: dict[str, Any]) -> tuple[Any, ...]:
    decision = "kept" if row["decision"] == "kept" else row["rule"]
    head = (row["document_id"], row["text_sha256"], row["num_tokens"], row["source"], row["licence_spdx"])
    return (*head, decision, row["split"])


def _parquet_rows(folder: Path, pattern: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(pattern)):
        for batch in pq.ParquetFile(path).iter_batches(columns=columns):
            yield from batch.to_pylist()


def check_texts(bundle: Path) -> CheckResult:
    """Every shipped text has the sha256 of its row, and every kept document of a source that ships text is there."""
    dataset = bundle / "dataset"
    columns = ["document_id", "source", "split", "text_sha256", "decision"]
    rows = _parquet_rows(dataset / "documents", "documents-*.parquet", columns)
    expected = {row["document_id"]: row for row in rows if row["decision"] == "kept"}
    shipping = read_json(bundle / "model" / "openness" / "components.json")["shipping"]
    left_out = {document_id for document_id, row in expected.items() if shipping.get(row["source"], "text") != "text"}
    forgotten = {document.document_id for document in BundleFacts(bundle).forgotten}
    left_out |= forgotten
    seen: set[str] = set()
    problem = None
    for split in ("train", "heldout"):
        for row in _parquet_rows(dataset / "text", f"{split}-*.parquet", ["document_id", "text"]):
            document_id = row["document_id"]
            known = expected.get(document_id)
            if known is None or known["split"] != split or document_id in seen:
                problem = problem or f"text of {document_id[:12]} in {split} belongs to no kept document of that split"
            elif sha256_bytes(row["text"].encode("utf-8")) != known["text_sha256"]:
                problem = problem or f"the text of document {document_id[:12]} is not the one its row names"
            seen.add(document_id)
    if found := sorted(forgotten & seen):
        problem = problem or f"the text of document {found[0][:12]} is there, and a tombstone names it"
    missing = sorted(expected.keys() - seen - left_out)
    if missing:
        problem = problem or f"the text of document {missing[0][:12]} is missing"
    if problem is None and left_out:
        detail = f"{len(seen):,} texts equal their digests; {len(left_out):,} are not shipped as text"
        return CheckResult(_RECORDS, "texts", "UNVERIFIED", detail, "dataset/text")
    return _result("texts", "dataset/text", problem, f"{len(seen):,} texts equal their digests")


def check_order(bundle: Path, facts: BundleFacts | None = None) -> CheckResult:
    """The order of every step of every stage, recomputed by the numpy implementation."""
    facts, num_steps, problem = facts or BundleFacts(bundle), 0, None
    for path in sorted((bundle / "model" / "training").glob("*/ledger.jsonl")):
        found, wrong = compare_order(facts.ledger(path.parent.name), path.parent)
        num_steps, problem = num_steps + found, problem or wrong
    if not num_steps:
        problem = problem or "no step is recorded"
    return _result(
        "order by numpy", "model/training", problem, f"{num_steps:,} steps have the order that seed or file gives"
    )


def check_evaluation(bundle: Path) -> CheckResult:
    """The evaluation table, rebuilt from the stored samples."""
    rescore(bundle / "model" / "evaluation")
    num_rows = len(read_json(bundle / "model" / "evaluation" / "results.json")["rows"])
    detail = f"{num_rows} rows rebuilt from the samples, byte for byte"
    return CheckResult(_RECORDS, "evaluation rescored", "PASS", detail, "model/evaluation")


def check_verdict(bundle: Path, facts: BundleFacts | None = None, make: Maker = model_documents) -> CheckResult:
    """The openness verdict, evaluated again."""
    path = "model/openness/verdict.json"
    documents = {path: make(facts or BundleFacts(bundle))[path]}
    return _compare(bundle, "openness verdict", documents)


def check_documents(bundle: Path, facts: BundleFacts | None = None, make: Maker = model_documents) -> CheckResult:
    """Cards, page, NOTICE, LICENSE and Croissant record, generated again."""
    facts = facts or BundleFacts(bundle)
    documents = dataset_documents(facts) | terms_documents(facts) | make(facts)
    return _compare(bundle, "generated documents", documents)


def _compare(bundle: Path, name: str, documents: dict[str, bytes]) -> CheckResult:
    for path, data in sorted(documents.items()):
        is_there = (bundle / path).is_file()
        if is_there and (bundle / path).read_bytes() == data:
            continue
        if sources_digest(PACKAGES) != sources_digest(PACKAGES, bundle / "model" / "code"):
            detail = "this program would write it otherwise, but is not the version in code/: run that one"
            return CheckResult(_RECORDS, name, "UNVERIFIED", detail, path)
        problem = "it is not what the bundle's records give" if is_there else "the document is missing"
        return CheckResult(_RECORDS, name, "FAIL", problem, path)
    return CheckResult(_RECORDS, name, "PASS", f"{len(documents)} generated again, byte for byte", "model")
