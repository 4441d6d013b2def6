"""What a replay found, as a record that can be signed: which steps, chosen how, with which code, where, the verdict.

`openwright reproduce --json` prints it as `replay` (`openwright-replay-report/1` or `/2`); `openwright attest` puts it
into a signed statement. It says nothing nicer than the check result it stands beside.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from provenance.canonical import Json, parse_json, read_json
from provenance.config import Config
from provenance.digests import sha256_file
from provenance.fingerprint import PACKAGES, sources_digest
from provenance.ledger import read_chain
from release.comparison import Judgement
from release.divergence import Divergence
from release.replay_layout import layout_of
from release.replay_segments import Segment
from release.verify import CheckResult
from train.jobs import LIBRARIES

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
Verdict = Literal["PASS", "FAIL", "UNVERIFIED"]
ReportFormat = Literal["openwright-replay-report/1", "openwright-replay-report/2"]
Comparison = Literal["bitwise", "within tolerance"]


class ReplayedBundle(Config):
    """The bundle by name and digests: its two manifests, and the content digest `bundle/1`."""

    name: str
    version: str
    manifest_sha256: Sha256
    dataset_manifest_sha256: Sha256
    content_digest: Sha256


class Choice(Config):
    """How the steps came to be replayed: given, or segments drawn with a given or a fresh seed (a decimal number)."""

    how: Literal["steps given", "seed given", "fresh seed"]
    seed: str | None
    num_segments: Positive
    num_segments_in_all: Positive | None

    def __str__(self) -> str:
        if self.num_segments_in_all is None:
            return "steps were given"
        missed = 1 - self.num_segments / self.num_segments_in_all
        drawn = f"drawn with seed {self.seed}: {self.num_segments} of {self.num_segments_in_all} segments"
        return f"{drawn}; a cheat in a single segment is missed with chance {missed:.2f}"


class ReplayLayout(Config):
    """Processes of the replay, and over how many a copy of the model was sharded."""

    num_processes: Count
    shard_size: Count


class InnerLayout(ReplayLayout):
    """A layout in which processes computed windows together: how many cut the matrices up, how many shared windows."""

    tensor_size: Count
    context_size: Count


class ReplayedSegment(Config):
    """One replayed stretch of steps.

    Attributes:
        first_step, last_step: what was to be replayed, from the checkpoint of the step before the first.
        num_equal_steps, num_equal_records: how much came out byte for byte before the first difference, if any.
        platform: the platform record of the replay with its digest `platform/1`; None where it did not get so far.
        recorded_platform: digest of the platform of the recorded run.
    """

    stage: str
    first_step: Positive
    last_step: Positive
    comparison: Comparison
    verdict: Verdict
    detail: str
    num_equal_steps: Count
    num_equal_records: Count
    layout: ReplayLayout | InnerLayout | None
    platform: dict[str, Any] | None
    recorded_platform: str | None
    python: str | None
    libraries: dict[str, str]


class ReplayReport(Config):
    """All that one `reproduce` found.

    Attributes:
        date_utc: when it was finished, in ISO 8601, by the clock of the machine that replayed.
        replayed_code: digest `sources/1` of the packages that ran: the bundle's own.
        comparing_code: the same of the program that chose the steps and compared.
        format: the second version where a segment has an `InnerLayout`.
    """

    format: ReportFormat
    bundle: ReplayedBundle
    choice: Choice
    date_utc: Date
    replayed_code: Sha256
    comparing_code: Sha256
    segments: Annotated[list[ReplayedSegment], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        if self.format != report_format(self.segments):
            raise ValueError(f"format {self.format} with layouts of another version")
        return self


def report_format(segments: Sequence[ReplayedSegment]) -> ReportFormat:
    """The version of a report on some segments."""
    has_inner = any(isinstance(segment.layout, InnerLayout) for segment in segments)
    return "openwright-replay-report/2" if has_inner else "openwright-replay-report/1"


@dataclass(frozen=True)
class ReplayResult(CheckResult):
    """A check result with the record of what was replayed."""

    choice: Choice
    segment: ReplayedSegment
    divergence: Divergence | None = None
    judgement: Judgement | None = None


def bundle_identity(model: Path) -> ReplayedBundle:
    """Name and digests of a bundle, as the root manifest in its `model/` gives them."""
    path = model / "manifest.json"
    root = read_json(path)
    return ReplayedBundle(
        name=root["name"],
        version=root["version"],
        manifest_sha256=sha256_file(path),
        dataset_manifest_sha256=root["dataset"]["manifest_sha256"],
        content_digest=root["content_digest"],
    )


def now_utc() -> str:
    """The time in ISO 8601, by the clock of this machine."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def libraries_of(environment: dict[str, Any]) -> dict[str, str]:
    """Versions of the libraries that compute, from an environment record."""
    installed = environment.get("distributions", {})
    return {name: installed[name]["version"] for name in LIBRARIES if name in installed}


def replay_report(bundle: Path, results: Sequence[ReplayResult]) -> Json:
    """The record of a finished `reproduce`, in the form that `--json` prints."""
    segments = [result.segment for result in results]
    report = ReplayReport(
        format=report_format(segments),
        bundle=bundle_identity(bundle / "model"),
        choice=results[0].choice,
        date_utc=now_utc(),
        replayed_code=sources_digest(PACKAGES, bundle / "model" / "code"),
        comparing_code=sources_digest(PACKAGES),
        segments=segments,
    )
    return report.model_dump()


def with_record(
    result: CheckResult,
    choice: Choice,
    bundle: Path,
    segment: Segment,
    output: Path,
    comparison: Comparison = "bitwise",
) -> ReplayResult:
    """Put the record of what was replayed beside a check result.

    Args:
        output: directory that the replay wrote into.
        comparison: how the verdict came about.
    """
    environment = read_json(output / "environment.json") if (output / "environment.json").is_file() else {}
    recorded = read_json(bundle / "model" / "training" / segment.stage / "environment.json")["platform"]
    num_steps, num_records = _equal_records(bundle, segment, output)
    replayed = ReplayedSegment(
        stage=segment.stage,
        first_step=segment.first,
        last_step=segment.last,
        comparison=comparison,
        verdict=result.verdict,  # type: ignore[arg-type]  # pydantic checks it
        detail=_without_paths(result.detail, bundle, output),
        num_equal_steps=num_steps,
        num_equal_records=num_records,
        layout=_layout(output),
        platform=environment.get("platform"),
        recorded_platform=recorded.get("digest"),
        python=environment.get("python"),
        libraries=libraries_of(environment),
    )
    return ReplayResult(**asdict(result), choice=choice, segment=replayed)


def _equal_records(bundle: Path, segment: Segment, output: Path) -> tuple[int, int]:
    """Steps and records that came out byte for byte, from the starting checkpoint's record to the first difference."""
    replayed = output / "ledger.jsonl"
    if not replayed.is_file():
        return 0, 0
    start = int(read_json(segment.checkpoint / "checkpoint.json")["ledger"]["num_records"])
    told = (bundle / "model" / "training" / segment.stage / "ledger.jsonl").read_bytes().splitlines()[start:]
    num_steps = num_records = 0
    for line, recorded in zip(replayed.read_bytes().splitlines(), told, strict=False):
        if line != recorded:
            break
        num_records += 1
        num_steps += parse_json(line, str(replayed))["kind"] == "step"
    return num_steps, num_records


def _layout(output: Path) -> ReplayLayout | None:
    journal = output / "journal.jsonl"
    begun = [r for r in read_chain(journal) if r["kind"] == "replay"] if journal.is_file() else []
    if not begun:
        return None
    found = layout_of(begun[-1])
    sizes = {"num_processes": begun[-1]["num_processes"], "shard_size": found.shard_size}
    if max(found.tensor_size, found.context_size) == 1:
        return ReplayLayout(**sizes)
    return InnerLayout(**sizes, tensor_size=found.tensor_size, context_size=found.context_size)


def _without_paths(text: str, bundle: Path, output: Path) -> str:
    """A message without the places where this machine keeps things: nobody else needs them in a signed statement."""
    for place in (output.parent, bundle.resolve(), bundle):
        text = text.replace(f"{place}/", "")
    return text
