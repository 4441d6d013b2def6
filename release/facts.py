"""Everything that cards, page and rules state about a bundle, read from its manifests, documents and ledgers.

Nothing here is typed by hand: each number comes from a file of the bundle, so that every document can be made again.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_recipes.tombstones import CHAT_FOLDERS, TOMBSTONES_NAME, HeldDocument, held_documents, read_tombstones
from data_recipes.windows import REDACTED_FOLDER
from provenance.canonical import Json, parse_hex_float, read_json
from provenance.digests import FileEntry, hash_files
from provenance.ledger import read_chain
from provenance.made_model import AVERAGE, AVERAGE_RECORD, MadeModel, made_model
from release.layout import TEXT_FOLDERS, bundle_digest, bundle_files, role_of
from release.sources import class_of, source_locks

_TEXT_PLACES = tuple(f"dataset/{folder}/" for folder in TEXT_FOLDERS)


@dataclass
class SourceFacts:
    """One source of the corpus, counted from the rows of `documents/`.

    Attributes:
        lock: its entry in `sources.lock`.
        drops: dropped documents by rule.
        licences: kept documents by SPDX expression.
        licences_chosen: the same by the alternative that the policy took, conversations from files too.
        kept_bytes: UTF-8 bytes of the kept documents.
        copyright: copyright lines of the kept documents, sorted.
    """

    name: str
    lock: dict[str, Any]
    split: str = ""
    num_kept: int = 0
    num_dropped: int = 0
    kept_bytes: int = 0
    kept_tokens: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    licences_chosen: Counter[str] = field(default_factory=Counter)
    dropped_licences: Counter[str] = field(default_factory=Counter)
    copyright: list[str] = field(default_factory=list)


@dataclass
class LedgerFacts:
    """What the ledger of one training stage says.

    Attributes:
        losses: training loss per step, nats per trained token.
        order_digests: of the same steps, 32 bytes each.
        evaluations: `evaluation` records with numbers read.
        checkpoints: `(step, kind)` of each checkpoint that was made; what is kept of them, the bundle says.
        skipped: first and last step of each stretch that was left out.
        tokens_by_source: tokens read per source over all steps.
    """

    start: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    order_digests: bytearray = field(default_factory=bytearray)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[tuple[int, int]] = field(default_factory=list)
    tokens_by_source: Counter[str] = field(default_factory=Counter)
    num_trained_tokens: int = 0

    @property
    def branch(self) -> dict[str, Any] | None:
        """Where another run was left that this one goes on from: its ledger's head, step and state; else None."""
        return self.start.get("branch")

    @property
    def first_step(self) -> int:
        """Step at whose state the ledger begins: 0, or the branch point."""
        return int(self.branch["step"]) if self.branch else 0


class BundleFacts:
    """Reads a bundle once; every attribute is computed on first use.

    Args:
        bundle: the directory that holds `model/` and `dataset/`.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.model = bundle / "model"
        self.dataset = bundle / "dataset"
        self._hashed: dict[str, FileEntry] = {}
        self._ledgers: dict[str, LedgerFacts] = {}

    @cached_property
    def paths(self) -> list[str]:
        """Bundle-relative paths of all files, sorted."""
        return [path.relative_to(self.bundle).as_posix() for path in bundle_files(self.bundle)]

    @cached_property
    def components(self) -> dict[str, Any]:
        """`openness/components.json`: what the provider declares."""
        return dict(read_json(self.model / "openness" / "components.json"))

    @cached_property
    def dataset_manifest(self) -> dict[str, Any]:
        """`dataset/manifest.json`."""
        return dict(read_json(self.dataset / "manifest.json"))

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """`dataset/corpus.json`."""
        return dict(read_json(self.dataset / "corpus.json"))

    @cached_property
    def lock(self) -> dict[str, dict[str, Any]]:
        """Entries of `dataset/sources.lock` by source name."""
        return source_locks(self.dataset)

    @cached_property
    def token_table(self) -> dict[str, Any]:
        """`dataset/tokens/tokens.json`, or the empty table where tokens are not shipped."""
        path = self.dataset / "tokens" / "tokens.json"
        return dict(read_json(path)) if path.is_file() else {"splits": {}}

    @property
    def training_stages(self) -> list[str]:
        """Training stages in order."""
        return [stage for stage in self.components["stages"][1:-1] if stage != AVERAGE]

    @property
    def released_stage(self) -> str:
        """The stage whose final weights are `model/`."""
        return str(self.components["stages"][-2])

    @property
    def released_model(self) -> MadeModel:
        """What the records of the released stage say of its model."""
        return made_model(self.model / "training" / self.released_stage)

    @cached_property
    def average(self) -> dict[str, Any] | None:
        """`average.json`, where the release has a stage `average`."""
        if AVERAGE not in self.components["stages"]:
            return None
        return dict(read_json(self.model / "training" / AVERAGE / AVERAGE_RECORD))

    def stage_manifest(self, stage: str) -> dict[str, Any]:
        """Artifact manifest of a stage."""
        if stage == "corpus":
            return dict(self.dataset_manifest["corpus"])
        folder = "evaluation" if stage == "eval" else f"training/{stage}"
        return dict(read_json(self.model / folder / "manifest.json"))

    @cached_property
    def stages(self) -> list[dict[str, Json]]:
        """Stages with their digests, as the root manifest lists them."""
        keys = ("fingerprint", "content_digest", "parents", "code")
        found = [(stage, self.stage_manifest(stage)) for stage in self.components["stages"]]
        return [{"stage": stage, **{key: manifest[key] for key in keys}} for stage, manifest in found]

    @cached_property
    def dev(self) -> bool:
        """Whether any stage, or the bundle itself, was made by a dev run."""
        return bool(self.components["dev"]) or any(
            self.stage_manifest(stage)["dev"] for stage in self.components["stages"]
        )

    def entry(self, path: str) -> FileEntry:
        """Size and digest of one file by bundle-relative path; hashed once."""
        if path not in self._hashed:
            self._hashed[path] = hash_files(self.bundle, [self.bundle / path])[0]
        return self._hashed[path]

    @cached_property
    def all_entries(self) -> dict[str, FileEntry]:
        """Files that the two manifests list, by bundle-relative path."""
        return {path: self.entry(path) for path in self.paths if role_of(path) != "root"}

    def listed(self, part: str) -> list[tuple[FileEntry, str]]:
        """Files of `model` or `dataset` that its manifest lists, with their roles; paths relative to that part."""
        found = [(path, entry) for path, entry in self.all_entries.items() if path.startswith(f"{part}/")]
        relative = [(FileEntry(p.partition("/")[2], e.size_bytes, e.sha256), role_of(p)) for p, e in found]
        return sorted(relative)

    @cached_property
    def content_digest(self) -> str:
        """Content digest `bundle/1`, computed from the files."""
        results = [entry for entry, role in self.listed("model") if role == "result"]
        name, version = self.components["name"], self.components["version"]
        return bundle_digest(name, version, self.dataset_manifest["content_digest"], results)

    def may_be_left_out(self, place: str) -> bool:
        """Whether the declared shipping lets this file of the corpus stay out of the bundle."""
        shipping = self.components["shipping"]
        if not place.startswith("dataset/"):
            return False
        if (self.dataset / TOMBSTONES_NAME).is_file() and self._is_redacted(place):
            return True
        if place.startswith(_TEXT_PLACES):
            return any(kind != "text" for kind in shipping.values())
        if place.startswith("dataset/documents/documents-"):
            return any(class_of(entry) == "unshareable" for entry in self.lock.values())
        source = token_sources(self.token_table).get(place.removeprefix("dataset/"))
        return source is not None and shipping.get(source) in ("index", "reference")

    def _is_redacted(self, place: str) -> bool:
        """Whether forgotten documents keep a file of the corpus out: texts, and token files with a blanked copy."""
        if place.startswith(_TEXT_PLACES):
            return True
        return (self.dataset / REDACTED_FOLDER / place.removeprefix("dataset/")).is_file()

    def run(self, stage: str) -> dict[str, Any]:
        """`run.json` of a training stage."""
        return dict(read_json(self.model / "training" / stage / "run.json"))

    def recipe(self, stage: str) -> dict[str, Any]:
        """`recipe.json` of a training stage."""
        return dict(read_json(self.model / "training" / stage / "recipe.json"))

    def environment(self, stage: str) -> dict[str, Any]:
        """Observed environment of a stage; empty where none was recorded."""
        folders = {"corpus": self.dataset, "eval": self.model / "evaluation"}
        path = folders.get(stage, self.model / "training" / stage) / "environment.json"
        return dict(read_json(path)) if path.is_file() else {}

    def checkpoint(self, stage: str, path: str) -> dict[str, Any]:
        """`checkpoint.json` of a checkpoint, by its path in the run artifact (`checkpoints/step-...`)."""
        folder = self.model / "checkpoints" / stage / Path(path).name
        return dict(read_json(folder / "checkpoint.json"))

    def kept_checkpoints(self, stage: str) -> list[tuple[int, str]]:
        """Step and kind of every checkpoint of a stage in the bundle: what the recipe keeps of those that were made."""
        records = [read_json(path) for path in (self.model / "checkpoints" / stage).glob("step-*/checkpoint.json")]
        return sorted((record["step"], record["kind"]) for record in records)

    def ledger(self, stage: str) -> LedgerFacts:
        """What the ledger of a training stage says; it is read once."""
        if stage not in self._ledgers:
            self._ledgers[stage] = read_ledger(self.model / "training" / stage / "ledger.jsonl")
        return self._ledgers[stage]

    @property
    def ledgers(self) -> dict[str, LedgerFacts]:
        """Ledger facts by training stage."""
        return {stage: self.ledger(stage) for stage in self.training_stages}

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Rows of `evaluation/results.json`, numbers as they stand (hexadecimal)."""
        return list(read_json(self.model / "evaluation" / "results.json")["rows"])

    @cached_property
    def record(self) -> dict[str, Any]:
        """`evaluation/record.json`."""
        return dict(read_json(self.model / "evaluation" / "record.json"))

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """`evaluation/baselines.json`."""
        return dict(read_json(self.model / "evaluation" / "baselines.json"))

    @cached_property
    def sources(self) -> list[SourceFacts]:
        """Sources sorted by name, counted from the document rows; of conversations from files the licences."""
        facts = {name: SourceFacts(name, entry) for name, entry in self.lock.items()}
        columns = ["source", "split", "decision", "rule", "licence_spdx", "licence_chosen", "size_bytes", "num_tokens"]
        columns.append("copyright")
        lines: dict[str, set[str]] = {}
        for path in sorted((self.dataset / "documents").glob("documents-*.parquet")):
            for row in pq.read_table(path, columns=columns).to_pylist():
                source = facts.setdefault(row["source"], SourceFacts(row["source"], {}))
                _count(source, row)
                if row["decision"] == "kept":
                    lines.setdefault(source.name, set()).update(row["copyright"] or ())
        for name, found in lines.items():
            facts[name].copyright = sorted(found)
        for path in (path for folder in CHAT_FOLDERS for path in sorted((self.dataset / folder).glob("*.parquet"))):
            for row in pq.read_table(path, columns=["source", "licence"]).to_pylist():
                facts.setdefault(row["source"], SourceFacts(row["source"], {})).licences_chosen[row["licence"]] += 1
        return [facts[name] for name in sorted(facts)]

    @cached_property
    def forgotten(self) -> list[HeldDocument]:
        """Kept documents that were taken down: their rows stay, their texts and tokens are not in the bundle."""
        tombstones = read_tombstones(self.dataset / TOMBSTONES_NAME)
        return [d for d in held_documents(self.dataset, tombstones) if d.decision == "kept"] if tombstones else []

    @cached_property
    def data_date(self) -> str:
        """Latest date as of which licence evidence was taken: the date of the data pins; empty where none is given."""
        dates = {""}
        for path in sorted((self.dataset / "documents").glob("documents-*.parquet")):
            column = pq.read_table(path, columns=["evidence_date"])["evidence_date"]
            dates.update(value for value in column.unique().to_pylist() if value)
        return max(dates)

    @cached_property
    def shipped_documents(self) -> Counter[tuple[str, str]]:
        """Documents whose text is in `text/`, by source and split."""
        found: Counter[tuple[str, str]] = Counter()
        for path in sorted((self.dataset / "text").glob("*.parquet")):
            split = path.name.split("-")[0]
            found.update((name, split) for name in pq.read_table(path, columns=["source"])["source"].to_pylist())
        return found

    @cached_property
    def kept_licences(self) -> list[str]:
        """SPDX expressions that the kept documents are used under, sorted."""
        return sorted({licence for source in self.sources for licence in source.licences_chosen})


def token_sources(token_table: dict[str, Any]) -> dict[str, str]:
    """Source of each file of token shards that `tokens.json` lists."""
    return {
        file["path"]: source["name"]
        for split in token_table["splits"].values()
        for source in split["sources"]
        for shard in source["shards"]
        for file in shard["files"].values()
    }


def _count(source: SourceFacts, row: dict[str, Any]) -> None:
    if row["decision"] != "kept":
        source.num_dropped += 1
        source.drops[row["rule"]] += 1
        source.dropped_licences[row["licence_spdx"]] += 1
        return
    source.num_kept += 1
    source.split = row["split"]
    source.kept_bytes += row["size_bytes"]
    source.kept_tokens += row["num_tokens"]
    source.licences[row["licence_spdx"]] += 1
    source.licences_chosen[row["licence_chosen"]] += 1


def read_ledger(path: Path) -> LedgerFacts:
    """Read a training ledger; the chain is checked on the way."""
    facts = LedgerFacts()
    for record in read_chain(path):
        kind = record["kind"]
        if kind == "start":
            facts.start = record
        elif kind == "step":
            facts.losses.append((record["step"], parse_hex_float(record["loss"])))
            facts.order_digests += bytes.fromhex(record["order_digest"])
            facts.learning_rates.append(parse_hex_float(record["learning_rate"]))
            for name, num_tokens in record["tokens_by_source"].items():
                facts.tokens_by_source[name] += num_tokens
            facts.num_trained_tokens += record["num_trained_tokens"]
        elif kind == "evaluation":
            numbers = {key: parse_hex_float(record[key]) for key in ("loss", "bits_per_byte")}
            facts.evaluations.append({**record, **numbers})
        elif kind == "checkpoint":
            facts.checkpoints.append((record["step"], record["checkpoint_kind"]))
        elif kind == "skip":
            facts.skipped.append((record["first"], record["last"]))
        elif kind == "end":
            facts.end = record
    return facts
