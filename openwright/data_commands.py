"""What the commands `openwright data ...` do and print."""

from pathlib import Path
from typing import Any

from data_recipes.attribution import LicenceReport, attribution_text, read_licences
from openwright.report import print_json, printable, table_lines
from provenance.canonical import read_json
from provenance.errors import BundleError


def dataset_of(place: Path) -> Path:
    """The directory of a corpus: that of its artifact, or `dataset/` of a bundle.

    Raises:
        BundleError: when `place` is neither.
    """
    for directory in (place, place / "dataset"):
        if (directory / "corpus.json").is_file() and (directory / "documents").is_dir():
            return directory
    raise BundleError(
        "neither a corpus nor a bundle",
        expected="a directory with corpus.json and documents/, or one with dataset/",
        where=str(place),
        next_command="openwright run CONFIG_DIR, which prints where corpus and bundle lie",
    )


def source_locks(dataset: Path) -> dict[str, dict[str, Any]]:
    """Entries of `sources.lock` by source name."""
    return {entry["name"]: entry for entry in read_json(dataset / "sources.lock")["sources"]}


def show_licences(place: Path, attribution: Path | None, as_json: bool) -> None:
    """Print the licences of a corpus and what they ask; write the credits where a file is named."""
    dataset = dataset_of(place)
    report = read_licences(dataset / "documents")
    if attribution is not None:
        text = attribution_text(place.resolve().name, report, source_locks(dataset))
        attribution.write_text(text, encoding="utf-8")
    if as_json:
        print_json(report.as_json())
        return
    for line in _licence_lines(report):
        print(printable(line))
    if attribution is None:
        print(f"next: openwright data licences --in {place} --attribution ATTRIBUTION.txt")


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
