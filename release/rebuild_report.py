"""What `reproduce --full` found, as a record that can be signed: the stages that were made again and their digests.

`openwright reproduce --full --json` prints it as `rebuild_report` (`openwright-rebuild-report/1`); `openwright attest`
puts it into a signed statement. It says nothing nicer than the check results it stands beside.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from provenance.canonical import Json, read_json
from provenance.config import Config
from provenance.fingerprint import PACKAGES, sources_digest
from release.rebuild import Rebuild
from release.rebuild_plan import RELEASE, RebuildPlan
from release.replay_report import Date, ReplayedBundle, Sha256, Verdict, bundle_identity, libraries_of, now_utc

BUNDLE = "bundle"
"""What the last stage, which lays out the bundle, is called in a report."""


class RebuiltStage(Config):
    """One stage that was made again, or could not be.

    Attributes:
        recorded: content digest that the bundle records.
        rebuilt: content digest of what was made; None where nothing was.
    """

    stage: str
    verdict: Verdict
    detail: str
    recorded: Sha256
    rebuilt: Sha256 | None


class RebuildReport(Config):
    """All that one `reproduce --full` found.

    Attributes:
        date_utc: when it was finished, in ISO 8601, by the clock of the machine that rebuilt.
        rebuilt_code: digest `sources/1` of the packages that ran: the bundle's own.
        comparing_code: the same of the program that compared.
        stages: in order, up to the first that did not come out as recorded; the last of a whole rebuild is `bundle`.
        isolated: whether it ran in an environment made from the bundle's lock files.
        local_data: whether files of local data sets were given, since no program can fetch them.
        platform: the platform record of the first training stage that was made, with its digest; None without one.
        recorded_platform: digest of the platform of the recorded run of that stage.
    """

    format: Literal["openwright-rebuild-report/1"]
    bundle: ReplayedBundle
    date_utc: Date
    rebuilt_code: Sha256
    comparing_code: Sha256
    stages: Annotated[list[RebuiltStage], Field(min_length=1)]
    isolated: bool
    local_data: bool
    platform: dict[str, Any] | None
    recorded_platform: str | None
    python: str | None
    libraries: dict[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether every stage came out as recorded, the bundle too."""
        return self.stages[-1].stage == BUNDLE and all(stage.verdict == "PASS" for stage in self.stages)

    @property
    def verdict(self) -> str:
        """PASS for a whole rebuild; else what the stage at which it ended says, which is never PASS."""
        return "PASS" if self.is_whole else "FAIL" if self.stages[-1].verdict == "FAIL" else "UNVERIFIED"


def recorded_digests(root: Json) -> dict[str, str]:
    """Content digests of all that is rebuilt, in order, as a root manifest gives them."""
    return {**{row["stage"]: row["content_digest"] for row in root["stages"]}, BUNDLE: root["content_digest"]}


def rebuild_report(plan: RebuildPlan, found: Rebuild, *, isolated: bool, local_data: bool) -> Json:
    """The record of a finished rebuild in the form that `--json` prints; None where nothing was begun."""
    if not found.begun:
        return None
    model = plan.bundle / "model"
    recorded = recorded_digests(read_json(model / "manifest.json"))
    made = {stage.stage: stage.rebuilt for stage in found.stages}
    stages = [
        RebuiltStage(
            stage=_name(stage),
            verdict=result.verdict,  # type: ignore[arg-type]  # pydantic checks it
            detail=_without_paths(result.detail, plan),
            recorded=recorded[_name(stage)],
            rebuilt=made.get(stage),
        )
        for stage, result in found.begun
    ]
    trained = next((stage for stage in found.stages if stage.made_with), None)
    here = trained.made_with if trained else {}
    told = read_json(model / "training" / trained.stage / "environment.json")["platform"] if trained else {}
    report = RebuildReport(
        format="openwright-rebuild-report/1",
        bundle=bundle_identity(model),
        date_utc=now_utc(),
        rebuilt_code=sources_digest(PACKAGES, model / "code"),
        comparing_code=sources_digest(PACKAGES),
        stages=stages,
        isolated=isolated,
        local_data=local_data,
        platform=here.get("platform"),
        recorded_platform=told.get("digest"),
        python=here.get("python"),
        libraries=libraries_of(here),
    )
    return report.model_dump()


def _name(stage: str) -> str:
    return BUNDLE if stage == RELEASE else stage


def _without_paths(text: str, plan: RebuildPlan) -> str:
    """A message without the places where this machine keeps things."""
    places: tuple[Path, ...] = (plan.work, plan.bundle.resolve(), plan.bundle)
    for place in places:
        text = text.replace(f"{place}/", "")
    return text
