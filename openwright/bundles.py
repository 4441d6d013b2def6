"""A bundle opened for reading, for notebooks and for the summary at the end of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openwright.located import CACHE, BundleArgument
from provenance.canonical import Json, read_json
from provenance.digests import sha256_file
from provenance.errors import BundleError
from provenance.ledger import read_chain
from provenance.made_model import AVERAGE, AVERAGE_RECORD, RUN_RECORD


@dataclass(frozen=True)
class OpenBundle:
    """Read-only view of a bundle; nothing is verified by reading it, that is what `openwright verify` is for.

    Attributes:
        path: the bundle's directory, which holds `model/` and `dataset/`.
    """

    path: Path

    @property
    def model(self) -> Path:
        """Directory that `from_pretrained` takes."""
        return self.path / "model"

    @property
    def dataset(self) -> Path:
        """Directory that `datasets.load_dataset` takes."""
        return self.path / "dataset"

    @property
    def page(self) -> Path:
        """The release page."""
        return self.model / "index.html"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """`model/manifest.json`, the root that binds everything else."""
        values: dict[str, Any] = read_json(self.model / "manifest.json")
        return values

    @property
    def manifest_digest(self) -> str:
        """Digest of the manifest's bytes, the one that `verify --expect` takes."""
        return sha256_file(self.model / "manifest.json")

    @property
    def training_stages(self) -> list[str]:
        """Stages that trained, in order."""
        names = [str(entry["stage"]) for entry in self.manifest["stages"]]
        return [name for name in names if (self.model / "training" / name / RUN_RECORD).is_file()]

    def recipe(self, stage: str) -> Json:
        """The resolved recipe of a training stage."""
        return read_json(self._training(stage) / "recipe.json")

    def run(self, stage: str) -> dict[str, Any]:
        """`run.json` of a training stage: parameters, steps, tokens, final weights, held-out loss."""
        values: dict[str, Any] = read_json(self._training(stage) / "run.json")
        return values

    @cached_property
    def average(self) -> dict[str, Any] | None:
        """`average.json` where the model is an average of checkpoints, else None."""
        path = self.model / "training" / AVERAGE / AVERAGE_RECORD
        values: dict[str, Any] | None = read_json(path) if path.is_file() else None
        return values

    def ledger(self, stage: str) -> Iterator[dict[str, Any]]:
        """Records of a training stage's ledger in order; every link of its chain is checked on the way."""
        return read_chain(self._training(stage) / "ledger.jsonl")

    def journal(self, stage: str) -> Iterator[dict[str, Any]]:
        """Records of a training stage's journal: times, hosts, restarts."""
        return read_chain(self._training(stage) / "journal.jsonl")

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Rows of the evaluation table; numbers are hexadecimal strings (`float.fromhex`)."""
        rows: list[dict[str, Any]] = read_json(self.model / "evaluation" / "results.json")["rows"]
        return rows

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """The openness verdict with every rule's result."""
        values: dict[str, Any] = read_json(self.model / "openness" / "verdict.json")
        return values

    def _training(self, stage: str) -> Path:
        path = self.model / "training" / stage
        if stage == AVERAGE or not path.is_dir():  # of the Hub, not all of its files may be here
            raise BundleError(
                f"no training stage {stage!r}",
                expected=f"one of {', '.join(self.training_stages)}",
                where=str(self.path),
            )
        return path


def open_bundle(path: Path | str, cache: Path = CACHE) -> OpenBundle:
    """Open a bundle for reading.

    Args:
        path: the bundle's directory, or `hf:ORG/NAME[@REVISION]`. Of the latter the records are fetched, not weights,
            checkpoints, code or data: libraries load those from the Hub by the repository's own name.
        cache: where what is fetched is kept.

    Raises:
        BundleError: when it is no bundle.
        ConfigError: for a name that is none.
    """
    argument = BundleArgument(Path(path), cache=cache)
    located = argument.locate()
    if argument.is_remote:
        from openwright.needs import RECORDS  # loads much that a directory has no need of

        located.fetch(*RECORDS)
    bundle = OpenBundle(located.path)
    if not (bundle.model / "manifest.json").is_file():
        raise BundleError(
            "not a bundle",
            expected="a directory with model/manifest.json",
            where=str(path),
            next_command="openwright run CONFIG_DIR, which prints where its bundle lies",
        )
    return bundle
