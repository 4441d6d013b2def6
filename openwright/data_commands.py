"""What the commands `openwright data ...` do and print."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from data_recipes.attribution import LicenceReport, attribution_text, read_licences
from data_recipes.dolma_export import export_dolma
from data_recipes.megatron_export import export_megatron
from data_recipes.olmo_order import ORDER_FORMAT, convert_olmo_order
from data_recipes.tombstones import TOMBSTONES_NAME, held_documents, read_tombstones, write_tombstones
from openwright.configs import require_release
from openwright.forgetting import find_documents, following, make_receipt, make_tombstones, receipt_lines
from openwright.known_runs import known_runs
from openwright.located import PREFIX
from openwright.outcome import command, finish
from openwright.report import print_json, printable, require_folder, table_lines, write_named
from provenance.canonical import write_json
from provenance.errors import BundleError, ConfigError
from release.sources import source_locks


def build(place: Path, overrides: Sequence[str], store: Path, dev: bool, as_json: bool) -> None:
    """Build a corpus and print what it amounts to."""
    from openwright.corpus_alone import build_alone, summary_of

    found = summary_of(build_alone(place, overrides, store, dev))
    if as_json:
        print_json(found)
        return
    rows = [
        [source["name"], source["split"], f"{source['kept']:,}", f"{source['dropped']:,}", f"{source['num_tokens']:,}",
         ", ".join(f"{spdx} {count:,}" for spdx, count in source["licences"].items())]
        for source in found["sources"]
    ]  # fmt: skip
    for line in table_lines(["source", "split", "kept", "dropped", "tokens", "licences relied on"], rows):
        print(line)
    print(f"corpus: {found['path']}")
    print(f"next: {command('data', 'licences', '--in', found['path'])}")


def dataset_of(place: Path) -> Path:
    """The directory of a corpus: that of its artifact, or `dataset/` of a bundle.

    Raises:
        BundleError: when `place` is neither.
        ConfigError: for a bundle on the Hub.
    """
    if str(place).startswith(PREFIX):
        raise ConfigError(
            f"{place} is on the Hub",
            expected="a directory: these commands fetch nothing",
            where="command line",
            next_command=f"openwright verify {place}; --in takes the copy that it keeps in ~/.cache/openwright/bundles",
        )
    beside_model = [place.resolve().parent / "dataset"] if place.resolve().name == "model" else []
    for directory in (place, place / "dataset", *beside_model):
        if (directory / "corpus.json").is_file() and (directory / "documents").is_dir():
            return directory
    raise BundleError(
        "neither a corpus nor a bundle",
        expected="a directory with corpus.json and documents/, or one with dataset/",
        where=str(place),
        next_command="openwright run CONFIG_DIR, which prints where corpus and bundle lie",
    )


@contextmanager
def readable_tables(place: Path) -> Iterator[None]:
    """What the library raises for a damaged table of a corpus is said of its directory."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, and not of a damaged page
            raise
        raise BundleError(
            f"a table that cannot be read ({str(error).strip()})",
            expected="whole Parquet files, as they were written",
            where=str(place),
            next_command="openwright verify, for a bundle: it names the file; else build the corpus anew",
        ) from None


def show_licences(place: Path, attribution: Path | None, as_json: bool) -> None:
    """Print the licences of a corpus and what they ask; write the credits where a file is named."""
    dataset = dataset_of(place)
    tombstones = read_tombstones(dataset / TOMBSTONES_NAME)
    forgotten = {document.document_id for document in held_documents(dataset, tombstones)} if tombstones else set()
    report = read_licences(dataset / "documents", forgotten)
    if attribution is not None:
        write_named(attribution, attribution_text(place.resolve().name, report, source_locks(dataset)))
    if as_json:
        print_json(report.as_json())
        return
    for line in _licence_lines(report):
        print(printable(line))
    if attribution is None:
        print(f"next: {command('data', 'licences', '--in', place, '--attribution', 'ATTRIBUTION.txt')}")


def _licence_lines(report: LicenceReport) -> list[str]:
    header = ("licence", "documents", "tokens", "bytes", "without credit", "asks")
    rows = []
    for use in report.uses:
        asked = use.as_json()["obligations"]
        counts = (use.num_documents, use.num_tokens, use.size_bytes, use.num_without_credit)
        asks = "not in the table" if asked is None else ", ".join(asked) or "nothing"
        rows.append((use.chosen, *(f"{count:,}" for count in counts), asks))
    lines = table_lines(header, rows)
    if report.refused:
        refused = ", ".join(f"{licence} ({count:,})" for licence, count in report.refused.items())
        lines.append(f"dropped by the licence policy: {refused}")
    return lines


EXPORTERS = {"megatron": export_megatron, "dolma": export_dolma}
"""Functions that export a split, by the form that they write."""


def export_split(place: Path, target: Path, form: str, split: str, as_json: bool) -> None:
    """Export a split for another program."""
    description = EXPORTERS[form](dataset_of(place), split, target)
    if as_json:
        print_json(description)
        return
    rows = [
        (source["prefix"], f"{source['num_documents']:,}", f"{source['num_tokens']:,}", source["name"])
        for source in description["sources"]
    ]
    for line in table_lines(("files", "documents", "tokens", "source"), rows):
        print(printable(line))
    for source in description["sources"]:
        if missing := source.get("num_without_text", 0):
            print(printable(f"left out: {missing:,} kept documents of source {source['name']}, whose text is not here"))
    print(printable(f"next: the files are in {target}; export.json there has their digests"))


def make_order(
    place: Path,
    source: str,
    instances: Path,
    target: Path,
    as_json: bool,
    *,
    split: str,
    window_tokens: int,
    file_chunk_tokens: int | None,
    leave_out: bool,
) -> None:
    """Convert an order of OLMo-core and print what a recipe says of the file."""
    require_folder(target)
    order = convert_olmo_order(
        dataset_of(place),
        source,
        instances,
        target,
        split=split,
        window_tokens=window_tokens,
        file_chunk_tokens=file_chunk_tokens,
        leave_out=leave_out,
    )
    pinned = f"path: {target.name}, sha256: {order.sha256}, dtype: {order.dtype}, tokens_digest: {order.tokens_digest}"
    finish(
        {"format": ORDER_FORMAT, **asdict(order)},
        [f"{order.num_windows:,} windows in {target}; {order.num_left_out:,} places left out"],
        f"in pretrain.yaml, data: {{..., order: {{{pinned}}}}}",
        as_json,
    )


def _is_iso_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def forget_documents(
    prefixes: Sequence[str],
    reason: str,
    places: Sequence[Path],
    config_dir: Path,
    receipt_file: Path | None,
    with_duplicates: bool,
    requested: str | None,
    as_json: bool,
) -> None:
    """Write tombstones into a config directory, and the receipt of a takedown."""
    require_release(config_dir)
    if requested is not None and not _is_iso_date(requested):
        raise ConfigError(f"--date {requested}", expected="an ISO date, such as 2026-11-25", where="command line")
    runs = known_runs(places)
    day = requested or datetime.now(UTC).date().isoformat()
    documents = find_documents(runs, prefixes)
    tombstones = make_tombstones(runs, documents, day, reason, with_duplicates=with_duplicates)
    receipt = make_receipt(runs, tombstones)
    target = receipt_file or Path(f"receipt-{day}-{documents[0][:12]}.json")
    if target.exists():
        raise ConfigError(
            "the receipt exists",
            expected="a new file: --receipt FILE",
            where=str(target),
            next_command="the same command with another --receipt",
        )
    require_folder(target)
    write_tombstones(config_dir / TOMBSTONES_NAME, tombstones)
    write_json(target, receipt)
    next_step = following(receipt, config_dir)
    if as_json:
        print_json({**receipt, "receipt": str(target), "next": next_step})
        return
    lines = [*receipt_lines(receipt), f"tombstones: {config_dir / TOMBSTONES_NAME}", f"receipt: {target}"]
    for line in [*lines, f"next: {next_step}"]:
        print(printable(line))
