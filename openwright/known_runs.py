"""Runs and bundles that a takedown asks about: their ledgers, their corpora, and which goes on from which."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data_recipes.order import Order
from data_recipes.order_file import read_order
from openwright.status import find_runs
from provenance.artifacts import MANIFEST_NAME
from provenance.canonical import canonical_json, read_json
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError
from provenance.ledger import read_chain


@dataclass
class KnownRun:
    """One training run, of a bundle or of a directory of artifacts.

    Attributes:
        place: where it was found.
        corpus: directory of the corpus that it read.
        start: start record of its ledger.
        content_digest: of the finished run; empty while it goes on.
        last_step: last step in its ledger.
        checkpoints: steps of the checkpoints that it made, in order.
        skipped: first and last step of each stretch that was left out.
        heads: digests of all records of its ledger, by which a branch names the place that it goes on from.
    """

    place: Path
    corpus: Path
    start: dict[str, Any]
    content_digest: str
    last_step: int = 0
    checkpoints: list[int] = field(default_factory=list)
    skipped: list[tuple[int, int]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """Its stage."""
        return str(self.start["stage"])

    @property
    def first_step(self) -> int:
        """The step at whose state the ledger begins: 0, or the branch point."""
        return int(self.start["branch"]["step"]) if "branch" in self.start else 0

    @cached_property
    def order(self) -> Order:
        """The order of its steps."""
        return read_order(self.start["order"], self.place)

    def leaves_out(self, step: int) -> bool:
        """Whether a step was left out."""
        return any(first <= step <= last for first, last in self.skipped)

    def goes_on_from(self, other: "KnownRun") -> bool:
        """Whether its first state comes from another run: the finished one, or a checkpoint of it."""
        if "branch" in self.start:
            return str(self.start["branch"]["ledger_head"]) in other.heads
        bases = {parent["content_digest"] for parent in self.start["parents"] if parent["role"] != "corpus"}
        return other.content_digest in bases - {""}


def known_runs(places: Sequence[Path]) -> list[KnownRun]:
    """Read the runs at some places; a run that lies at several is told once, under the first.

    Args:
        places: bundles, runs, or directories of artifacts.

    Raises:
        ArtifactError: for a place without any run, or when the corpus of a run is not found beside it.
    """
    found: dict[tuple[str, str], KnownRun] = {}
    for place in places:
        for directory, corpus in _ledgers(place):
            run = _read(directory, corpus)
            found.setdefault((run.stage, run.heads[0]), run)
    return list(found.values())


def _ledgers(place: Path) -> list[tuple[Path, Path | None]]:
    """Directories of ledgers, each with the corpus where it is known: in a bundle it is `dataset/`."""
    if (place / "model" / MANIFEST_NAME).is_file():
        names = [str(row["stage"]) for row in read_json(place / "model" / MANIFEST_NAME)["stages"]]
        folders = [place / "model" / "training" / name for name in names]
        return [(folder, place / "dataset") for folder in folders if (folder / "ledger.jsonl").is_file()]
    return [(run, None) for run in find_runs(place)]


def _read(directory: Path, corpus: Path | None) -> KnownRun:
    is_finished = (directory / MANIFEST_NAME).is_file()
    digest = str(read_json(directory / MANIFEST_NAME)["content_digest"]) if is_finished else ""
    records = read_chain(directory / "ledger.jsonl")
    start = last = next(records)
    run = KnownRun(directory, corpus or _corpus_of(directory, start), start, digest)
    for record in records:
        run.heads.append(record["previous"])  # the digest of the record before it
        last = record
        if record["kind"] == "step":
            run.last_step = record["step"]
        elif record["kind"] == "checkpoint":
            run.checkpoints.append(record["step"])
        elif record["kind"] == "skip":
            run.skipped.append((record["first"], record["last"]))
    run.heads.append(sha256_bytes(canonical_json(last)))
    return run


def _corpus_of(run: Path, start: dict[str, Any]) -> Path:
    """The corpus artifact of the same store that a run names as its parent."""
    digest = next(parent["content_digest"] for parent in start["parents"] if parent["role"] == "corpus")
    store = run.parent.parent
    for manifest in sorted((store / "corpus").glob(f"*/{MANIFEST_NAME}")):
        if read_json(manifest)["content_digest"] == digest:
            return manifest.parent
    raise ArtifactError(
        f"no corpus with the content digest {digest[:12]}",
        expected="the corpus that the run read, in the same directory of artifacts",
        where=str(store / "corpus"),
    )
