"""Averages of checkpoints that a takedown asks about: those that lie beside known runs and were made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openwright.known_runs import KnownRun
from provenance.artifacts import MANIFEST_NAME
from provenance.canonical import read_json
from provenance.made_model import AVERAGE, AVERAGE_RECORD


@dataclass(frozen=True)
class KnownAverage:
    """An average, of a bundle or of a directory of artifacts.

    Attributes:
        place: where its records lie.
        weights_digest: of its weights.
        ingredients: content digest of the run and step of each checkpoint that it was made of.
    """

    place: Path
    weights_digest: str
    ingredients: tuple[tuple[str, int], ...]

    def steps_of(self, run: KnownRun) -> list[int]:
        """Steps of the checkpoints of a run that it was made of."""
        return [step for content_digest, step in self.ingredients if content_digest == run.content_digest]


def known_averages(runs: Sequence[KnownRun]) -> list[KnownAverage]:
    """The averages beside some runs, each once: a copy in another place is the same one."""
    found: dict[str, KnownAverage] = {}
    for record in sorted({record for run in runs for record in _beside(run.place)}):
        values, manifest = read_json(record), read_json(record.with_name(MANIFEST_NAME))
        contents = {parent["role"]: str(parent["content_digest"]) for parent in manifest["parents"]}
        ingredients = tuple((contents[part["stage"]], int(part["step"])) for part in values["ingredients"])
        average = KnownAverage(record.parent, str(values["final"]["weights_digest"]), ingredients)
        found.setdefault(str(manifest["content_digest"]), average)
    return list(found.values())


def _beside(run: Path) -> Iterable[Path]:
    """Records of finished averages in the bundle, or the directory of artifacts, that holds a run."""
    places = (run.parent / AVERAGE, *(run.parent.parent / AVERAGE).glob("*"))
    return [place / AVERAGE_RECORD for place in places if (place / MANIFEST_NAME).is_file()]
