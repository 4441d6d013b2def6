"""A stage that was made again, compared with the recorded one: equal content, or what differs first and why."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provenance.canonical import Json, parse_json, read_json
from provenance.fingerprint import PACKAGES, sources_digest
from provenance.made_model import AVERAGE
from release.bundle import RECORD_NAME
from release.code_identity import stage_specs
from release.divergence import Divergence, find_divergence
from release.environment_diff import EnvironmentDifference, difference_lines, environment_differences
from release.facts import BundleFacts
from release.readable import require_artifact, require_for_rebuild
from release.rebuild_plan import RELEASE
from release.replay_segments import Segment
from release.tensor_search import name_tensor

_PLATFORM = "platform."


@dataclass(frozen=True)
class StageComparison:
    """One stage, recorded and made again.

    Attributes:
        recorded, rebuilt: content digests.
        figures: what else is compared: head of the ledger, digest of the weights; recorded and rebuilt.
        differing: result files that differ, are missing or new.
        divergence: of a training stage, the first record that differs.
        environment: how the environment differs from the recorded one; looked at only where the content differs.
        made_with: of a training stage, the environment record of what was made; else empty.
    """

    stage: str
    recorded: str
    rebuilt: str
    figures: dict[str, tuple[str, str]]
    differing: tuple[str, ...] = ()
    divergence: Divergence | None = None
    environment: tuple[EnvironmentDifference, ...] = ()
    where: str = ""
    made_with: dict[str, Any] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        """Whether the content digests are equal."""
        return self.recorded == self.rebuilt

    @property
    def verdict(self) -> str:
        """PASS for equal content; UNVERIFIED where the environment may be why it differs."""
        if self.is_equal:
            return "PASS"
        if self.divergence is not None:
            return self.divergence.verdict
        return "UNVERIFIED" if any(difference.is_decisive for difference in self.environment) else "FAIL"

    @property
    def detail(self) -> str:
        """The finding in one line."""
        if self.is_equal:
            return f"made again, content digest {self.recorded} equal"
        parts = [f"content digest {self.rebuilt[:12]}, recorded {self.recorded[:12]}"]
        parts += [f"{name} {found[:12]}, recorded {told[:12]}" for name, (told, found) in self.figures.items()]
        if self.divergence is not None:
            parts.append(str(self.divergence))
        elif self.differing:
            parts.append(f"{len(self.differing)} result files differ, the first {self.differing[0]}")
        decisive = [difference.field for difference in self.environment if difference.is_decisive]
        if decisive and self.divergence is None:
            parts.append(f"this environment is not the recorded one ({', '.join(decisive)})")
        return "; ".join(parts)

    def lines(self) -> list[str]:
        """Tables for people, where the stage differs."""
        if self.divergence is not None:
            return self.divergence.lines()
        return [f"{self.stage}: environment:", *difference_lines(self.environment)] if self.environment else []

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {
            "stage": self.stage,
            "recorded": self.recorded,
            "rebuilt": self.rebuilt,
            "figures": {name: {"recorded": told, "rebuilt": found} for name, (told, found) in self.figures.items()},
            "verdict": self.verdict,
            "differing_files": list(self.differing),
            "divergence": self.divergence and self.divergence.as_json(),
            "environment": [difference.as_json() for difference in self.environment],
        }


def compare_stage(bundle: Path, stage: str, rebuilt: Path) -> StageComparison:
    """Compare a stage.

    Args:
        stage: its name; `release` for the bundle itself.
        rebuilt: directory of the artifact that was made again.

    Raises:
        BundleError: when the bundle's code made what is no such artifact.
    """
    facts = BundleFacts(bundle)
    require_artifact(rebuilt)
    if stage == RELEASE:
        return _compare_bundle(facts, rebuilt)
    recorded, found = facts.stage_manifest(stage), read_json(rebuilt / "manifest.json")
    digests = str(recorded["content_digest"]), str(found["content_digest"])
    is_training = stage in facts.training_stages
    figures = _run_figures(facts.run(stage), read_json(rebuilt / "run.json")) if is_training else {}
    made_with = _made_with(rebuilt) if is_training else {}
    if digests[0] == digests[1]:
        return StageComparison(stage, *digests, figures, made_with=made_with)
    differing = _differing_files(recorded["results"], found["results"])
    divergence = _first_divergence(facts, stage, rebuilt) if is_training else None
    environment = _environment(facts, stage, rebuilt)
    return StageComparison(stage, *digests, figures, differing, divergence, environment, str(rebuilt), made_with)


def _run_figures(recorded: dict[str, Any], rebuilt: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        "ledger head": (str(recorded["ledger"]["head"]), str(rebuilt["ledger"]["head"])),
        "weights": (str(recorded["final"]["weights_digest"]), str(rebuilt["final"]["weights_digest"])),
    }


def _differing_files(recorded: list[dict[str, Any]], rebuilt: list[dict[str, Any]]) -> tuple[str, ...]:
    told, found = ({entry["path"]: entry["sha256"] for entry in side} for side in (recorded, rebuilt))
    return tuple(sorted(path for path in {**told, **found} if told.get(path) != found.get(path)))


def _first_divergence(facts: BundleFacts, stage: str, rebuilt: Path) -> Divergence | None:
    """The first record of the ledgers that differs, with its cause and tensor; None where all records are equal."""
    ledger = facts.model / "training" / stage / "ledger.jsonl"
    pairs = zip(ledger.read_bytes().splitlines(), (rebuilt / "ledger.jsonl").read_bytes().splitlines(), strict=False)
    num_steps = int(facts.run(stage)["num_steps"])
    for told, line in pairs:
        if told != line:
            segment = Segment(stage, facts.model / "checkpoints" / stage, 1, num_steps)
            records = parse_json(told, str(ledger)), parse_json(line, str(rebuilt))
            divergence = find_divergence(facts.bundle, segment, rebuilt, *records)
            return name_tensor(divergence, segment.checkpoint, rebuilt / "checkpoints", num_steps)
    return None


def _environment(facts: BundleFacts, stage: str, rebuilt: Path) -> tuple[EnvironmentDifference, ...]:
    """Differences that may change the stage's bytes are decisive: its libraries, and the platform where it computes."""
    code = facts.model / "code"
    if facts.stage_manifest(stage)["code"]["packages_digest"] != sources_digest(PACKAGES, code):
        return ()  # another source tree explains the difference, and is the bundle's own fault
    if stage == AVERAGE:
        return ()  # its arithmetic gives the same bits everywhere
    found = environment_differences(facts.environment(stage), _made_with(rebuilt), stage_specs()[stage].libraries)
    return tuple(d for d in found if not (stage == "corpus" and d.field.startswith(_PLATFORM)))


def _made_with(rebuilt: Path) -> dict[str, Any]:
    path = rebuilt / "environment.json"
    return dict(read_json(path)) if path.is_file() else {}


def _compare_bundle(facts: BundleFacts, rebuilt: Path) -> StageComparison:
    record = read_json(rebuilt / RECORD_NAME)
    recorded = str(read_json(facts.model / "manifest.json")["content_digest"])
    require_for_rebuild(rebuilt / str(record["bundle"]))
    other = BundleFacts(rebuilt / str(record["bundle"]))
    if recorded == record["content_digest"]:
        return StageComparison(RELEASE, recorded, other.content_digest, {})
    listed = ([entry.as_json() for entry, role in side.listed("model") if role == "result"] for side in (facts, other))
    differing = _differing_files(*listed)
    return StageComparison(RELEASE, recorded, str(record["content_digest"]), {}, differing, where=str(other.bundle))
