"""What a training step read, and which steps read a document: both follow from the bundle's order, exactly."""

import re
from bisect import bisect_left, bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from data_recipes.order import Order
from data_recipes.pools import WindowPools
from openwright.bundles import open_bundle
from provenance.canonical import read_json
from provenance.errors import BundleError, ConfigError

PRETRAIN = "pretrain"
_COLUMNS = (
    *("document_id", "source", "path", "split", "decision", "rule", "num_tokens", "licence_spdx", "licence_declared"),
    *("evidence_kind", "evidence_locator", "evidence_sha256"),
)
_PREVIEW_CHARS = 160


class Readings:
    """The readings of one training stage of a bundle.

    Args:
        bundle_dir: directory of the bundle.
        stage: training stage.
    """

    def __init__(self, bundle_dir: Path, stage: str = PRETRAIN) -> None:
        self.bundle = open_bundle(bundle_dir)
        start = next(self.bundle.ledger(stage))["order"]
        self.order = Order.from_json(start)
        self.split = str(start["split"])
        usual = int(start["window_tokens"])
        lengths = dict.fromkeys(source.window_tokens or usual for source in self.order.sources)
        self.windows = WindowPools(self.bundle.dataset, self.split, list(lengths))
        recipe = read_json(self.bundle.model / "training" / stage / "recipe.json")
        self.skipped: list[tuple[int, int]] = [(first, last) for first, last in recipe["skip_steps"]]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All documents, kept and dropped, in document id order, without their texts."""
        files = sorted((self.bundle.dataset / "documents").glob("documents-*.parquet"))
        return [row for path in files for row in pq.read_table(path, columns=list(_COLUMNS)).to_pylist()]

    @cached_property
    def kept(self) -> dict[str, list[dict[str, Any]]]:
        """Documents of the split by source, in the order in which its tokens hold them."""
        found: dict[str, list[dict[str, Any]]] = {source.name: [] for source in self.order.sources}
        for row in self.rows:
            if row["decision"] == "kept" and row["split"] == self.split:
                found[row["source"]].append(row)
        return found

    def step(self, step: int) -> list[dict[str, Any]]:
        """The windows of a step in slot order: source, epoch, window, documents, and the text's beginning.

        Documents are named where windows are cut from whole documents (layout `stream`); a row of fine-tuning is one
        conversation, and its text tells which.

        Raises:
            ConfigError: for a step that the recipe leaves out.
        """
        if self._is_skipped(step):
            raise ConfigError(f"step {step} was left out of this run", expected="a step that was run")
        tokenizer = Tokenizer.from_file(str(self.bundle.model / "tokenizer.json"))
        found = []
        for slot, draw in enumerate(self.order.step_draws(step)):
            source = self.order.sources[draw.source].name
            ids, _ = self.windows.read(draw)
            documents = []
            if self.windows.layout == "stream":
                first, last = self.windows.documents_of(draw.source, draw.window)
                documents = [
                    {key: row[key] for key in ("document_id", "path", "licence_spdx")}
                    for row in self.kept[source][first : last + 1]
                ]
            text = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
            found.append(
                {
                    "slot": slot,
                    "source": source,
                    "epoch": draw.epoch,
                    "window": draw.window,
                    "documents": documents,
                    "text": " ".join(text.split())[:_PREVIEW_CHARS],
                }
            )
        return found

    def document(self, prefix: str) -> dict[str, Any]:
        """A document by its id or the beginning of it: its row, and every step that read any of its tokens.

        Raises:
            ConfigError: when no document, or more than one, begins so.
        """
        matching = [row for row in self.rows if row["document_id"].startswith(prefix)]
        if not re.fullmatch(r"[0-9a-f]{4,64}", prefix) or len(matching) != 1:
            raise ConfigError(
                f"{len(matching)} documents begin with {prefix!r}",
                expected="the beginning of one document id, at least 4 hexadecimal digits",
                where=str(self.bundle.dataset / "documents"),
            )
        row = matching[0]
        is_read = row["decision"] == "kept" and row["split"] == self.split
        return {**row, "steps": self._steps_of(row) if is_read else []}

    def _steps_of(self, row: dict[str, Any]) -> list[int]:
        if self.windows.layout != "stream":
            raise BundleError("documents are not read as such", expected="a stage that reads windows of text")
        ordinal = self.kept[row["source"]].index(row)
        pools = [index for index, pool in enumerate(self.order.sources) if pool.name == row["source"]]
        steps = {
            step
            for pool in pools
            for window in self._windows_of(pool, ordinal)
            for step in self.order.steps_that_read(pool, window)
        }
        return sorted(step for step in steps if not self._is_skipped(step))

    def _windows_of(self, pool: int, ordinal: int) -> range:
        """The windows of a pool that touch a document; both ends of their document ranges grow with the window."""
        numbers = range(self.order.sources[pool].num_windows)
        first = bisect_left(numbers, ordinal, key=lambda window: self.windows.documents_of(pool, window)[1])
        end = bisect_right(numbers, ordinal, key=lambda window: self.windows.documents_of(pool, window)[0])
        return numbers[first:end]

    def _is_skipped(self, step: int) -> bool:
        return any(first <= step <= last for first, last in self.skipped)


def step_lines(windows: list[dict[str, Any]]) -> list[str]:
    """The windows of a step for people."""
    lines = []
    for window in windows:
        lines.append(f"slot {window['slot']}: {window['source']}, epoch {window['epoch']}, window {window['window']:,}")
        for document in window["documents"]:
            lines.append(f"    {document['document_id'][:12]}  {document['licence_spdx']}  {document['path']}")
        lines.append(f"    {window['text']}")
    return lines


def document_lines(found: dict[str, Any]) -> list[str]:
    """A document's row and steps for people."""
    steps = ", ".join(map(str, found["steps"])) or "none"
    decision = found["decision"] + (f" by {found['rule']}" if found["rule"] else "")
    return [
        f"document   {found['document_id']}",
        f"place      {found['source']}: {found['path']}",
        f"decision   {decision}, split {found['split']}, {found['num_tokens']:,} tokens",
        f"licence    {found['licence_spdx']} (declared: {found['licence_declared']!r})",
        f"evidence   {found['evidence_kind']} at {found['evidence_locator']}, sha256 {found['evidence_sha256']}",
        f"read in    steps: {steps}",
    ]
