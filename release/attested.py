"""What attestations come to for a reader: by whom, when, of what, and which of them count.

`attestations/` is no part of what a publisher signs or lists: anyone can put a file there or take one away. So an
attestation counts by its key alone. Those of keys that the reader gave are judged; all others, and files that do not
hold, are notes: shown, never green, and no part of the exit code. Nobody unknown can raise trust, or spoil a verdict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from release.keys import PublicKey
from release.rebuild_report import BUNDLE, RebuildReport
from release.replay_report import ReplayedSegment, ReplayReport
from release.verify import NOTE, CheckResult, show

FOLDER = "attestations"
CHECK = "attestations"
PLACE = f"model/{FOLDER}"


@dataclass(frozen=True)
class Attestation:
    """An attestation whose own signature holds, and that speaks of this bundle."""

    key: PublicKey
    report: ReplayReport | RebuildReport

    @property
    def verdict(self) -> str:
        """The verdict of a rebuild, or the worst of the segments of a replay."""
        if isinstance(self.report, RebuildReport):
            return self.report.verdict
        found = {segment.verdict for segment in self.report.segments}
        return next(verdict for verdict in ("FAIL", "UNVERIFIED", "PASS") if verdict in found)

    @property
    def segments(self) -> list[ReplayedSegment]:
        """Replayed stretches; none for a rebuild."""
        return [] if isinstance(self.report, RebuildReport) else self.report.segments

    def __str__(self) -> str:
        if isinstance(self.report, RebuildReport):
            return _rebuild_text(self.report)
        return f"{'; '.join(map(_segment_text, self.segments))} ({self.report.choice})"


def note(name: str, detail: str, where: str = PLACE) -> CheckResult:
    """Something that is shown and is no part of the verdict."""
    return CheckResult(NOTE, name, "UNVERIFIED", detail, where)


def attestation_result(attestation: Attestation, name: str, where: str, known: Sequence[PublicKey]) -> CheckResult:
    """What one attestation says: its own verdict where the reader gave the key, else a note."""
    fingerprint = attestation.key.fingerprint
    names = [key.name for key in known if key.fingerprint == fingerprint]
    who = f"the key {fingerprint}, " + (f"which you gave ({names[0]})" if names else "which you did not give")
    detail = f"{who}, says of {attestation.report.date_utc}: {attestation}"
    return CheckResult(CHECK, name, attestation.verdict, detail, where) if names else note(name, detail, where)


def summary(found: Sequence[Attestation], known: Sequence[PublicKey], broken: Sequence[CheckResult]) -> CheckResult:
    """How many keys attest, how many of them the reader gave, what these replayed and rebuilt, and what does not hold.

    Args:
        broken: notes on files that hold no attestation of this bundle.
    """
    given = {key.fingerprint for key in known}
    keys = {attestation.key.fingerprint for attestation in found}
    told = f"{len(found)} attestation{'s' * (len(found) != 1)} by {len(keys)} "
    told += f"{'key' if len(keys) == 1 else 'different keys'}, of which {len(keys & given)} you know"
    trusted = [attestation for attestation in found if attestation.key.fingerprint in given]
    if steps := _steps_text(segment for attestation in trusted for segment in attestation.segments):
        told += f"; replayed by those, {steps}"
    rebuilders = {a.key.fingerprint for a in trusted if isinstance(a.report, RebuildReport) and a.report.is_whole}
    if rebuilders:
        told += f"; the whole bundle rebuilt by {len(rebuilders)} of those"
    if found and not trusted:
        told += ": give the public keys of people whom you trust with --attester PUB.pem"
    if broken:
        told += f"; {broken[0].name} counts for nothing: {broken[0].detail}"
        told += f" (and {len(broken) - 1} more)" if broken[1:] else ""
    if not trusted:
        return note(CHECK, told)
    verdicts = {attestation.verdict for attestation in trusted}
    verdict = "FAIL" if "FAIL" in verdicts else "PASS" if "PASS" in verdicts else "UNVERIFIED"
    return CheckResult(CHECK, CHECK, verdict, told, PLACE)


def _segment_text(segment: ReplayedSegment) -> str:
    steps = f"{show(segment.stage)} steps {segment.first_step}-{segment.last_step} {segment.verdict}"
    if segment.verdict != "PASS" or segment.comparison != "bitwise":  # a tolerance is no better than its thresholds
        return f"{steps}: {show(segment.detail)}"
    place = _place(segment.platform, segment.recorded_platform)
    return f"{steps}, {segment.comparison}, {segment.num_equal_steps} steps equal bit for bit, on {place}"


def _place(platform: dict[str, object] | None, recorded: str | None) -> str:
    digest = str((platform or {}).get("digest"))
    return "the recorded platform" if digest == recorded else f"another platform, {show(digest[:12])}"


def _rebuild_text(report: RebuildReport) -> str:
    """What was made again with equal content, and where it ended otherwise."""
    equal = [show(stage.stage) for stage in report.stages if stage.verdict == "PASS"]
    told = f"rebuild {report.verdict}: "
    told += f"{', '.join(equal)} made again, content digests equal" if equal else "nothing came out equal"
    last = report.stages[-1]
    told += "" if last.verdict == "PASS" else f"; {show(last.stage)} {last.verdict}: {show(last.detail)}"
    how = ["in an environment from the bundle's locks"] if report.isolated else []
    how += ["local data sets given by hand"] if report.local_data else []
    how += [f"on {_place(report.platform, report.recorded_platform)}"] if report.platform else []
    digest = f"; content digest {last.rebuilt}" if last.stage == BUNDLE and report.is_whole else ""
    return f"{told}{digest} ({', '.join(how) or 'no training stage was made'})"


def _steps_text(segments: Iterable[ReplayedSegment]) -> str:
    """Steps with PASS by stage and comparison, each named once however often it was replayed."""
    passed = [segment for segment in segments if segment.verdict == "PASS"]
    spans_of: dict[str, list[list[int]]] = {}
    for segment in sorted(passed, key=lambda segment: (segment.stage, segment.first_step)):
        spans = spans_of.setdefault(f"{segment.comparison}: {show(segment.stage)} steps", [])
        if spans and segment.first_step <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], segment.last_step)
        else:
            spans.append([segment.first_step, segment.last_step])
    texts = {name: ", ".join(f"{first}-{last}" for first, last in spans) for name, spans in spans_of.items()}
    return "; ".join(f"{name} {text}" for name, text in sorted(texts.items()))
