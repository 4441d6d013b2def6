"""Attestations of whole rebuilds: what ours say, forged ones made without us, and what anyone's come to in `verify`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import replace_file
from forge_signatures import Key, attest, bundle_of, envelope, place, statement_of

from provenance.errors import BundleError, ConfigError
from release import attestations
from release.attestations import check_attestations
from release.checks import verify_release
from release.keys import load_private_key, load_public_key
from release.rebuild import Rebuild
from release.rebuild_plan import RebuildPlan
from release.rebuild_report import rebuild_report
from release.replay_report import bundle_identity
from release.verify import CheckResult, Tree, overall, verify_bundle

NAMES = ["corpus", "pretrain", "sft", "eval", "bundle"]


@pytest.fixture
def alice(tmp_path: Path) -> Key:
    return Key(tmp_path, "alice")


def rebuilt(bundle: Path, last: str = "bundle", **of_the_last: Any) -> Any:
    """The report of a rebuild that nobody made, up to a stage of which something may be said otherwise."""
    root = forge.read(bundle / "model" / "manifest.json")
    digests = {**{row["stage"]: row["content_digest"] for row in root["stages"]}, "bundle": root["content_digest"]}
    stages = [
        {"stage": name, "verdict": "PASS", "detail": "equal", "recorded": digests[name], "rebuilt": digests[name]}
        for name in NAMES[: NAMES.index(last) + 1]
    ]
    stages[-1] |= of_the_last
    platform = {"machine": "x86_64", "cpu_model": "an 8080"}
    platform["digest"] = forge.digest_of("platform/1", platform)
    return {
        "format": "openwright-rebuild-report/1",
        "bundle": bundle_of(bundle / "model"),
        "date_utc": "2026-11-25T12:00:00Z",
        "rebuilt_code": "c" * 64,
        "comparing_code": "d" * 64,
        "stages": stages,
        "isolated": True,
        "local_data": False,
        "platform": platform,
        "recorded_platform": platform["digest"],
        "python": "3.11.7",
        "libraries": {"torch": "2.13.0"},
    }


def signed(bundle: Path, key: Key, report: Any) -> Any:
    keys = {"model/manifest.json": "manifest_sha256", "dataset/manifest.json": "dataset_manifest_sha256"}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": bundle_of(bundle / "model")[keys[name]]}} for name in keys],
        "predicateType": "urn:openwright:rebuild-attestation:1",
        "predicate": {"public_key": key.pem, "report": report},
    }
    return envelope(statement, key, key.fingerprint)


def check(bundle: Path, *known: Key) -> list[CheckResult]:
    given = [load_public_key(key.public) for key in known]
    return check_attestations(Tree(bundle / "model", "model"), bundle_identity(bundle / "model"), given)


def test_a_whole_rebuild_is_told_with_its_digest_and_counts_by_its_key(copy: Path, alice: Key, tmp_path: Path) -> None:
    bob = Key(tmp_path, "bob")
    for key, name in ((alice, "aa-01.json"), (alice, "aa-02.json"), (bob, "bb-01.json")):
        place(copy, signed(copy, key, rebuilt(copy)), name)
    summary, first, _, stranger = check(copy, alice)
    assert (summary.verdict, first.verdict) == ("PASS", "PASS")
    assert "the whole bundle rebuilt by 1 of those" in summary.detail
    assert "rebuild PASS: corpus, pretrain, sft, eval, bundle made again, content digests equal" in first.detail
    assert bundle_of(copy / "model")["content_digest"] in first.detail
    assert "in an environment from the bundle's locks, on the recorded platform" in first.detail
    assert (stranger.check, stranger.verdict) == ("note", "UNVERIFIED")


@pytest.mark.parametrize(
    ("last", "changes", "verdict"),
    [
        ("pretrain", {"verdict": "FAIL", "rebuilt": "0" * 64, "detail": "first difference at step 2"}, "FAIL"),
        ("corpus", {"verdict": "UNVERIFIED", "rebuilt": None, "detail": "source x: not fetched"}, "UNVERIFIED"),
        ("eval", {}, "UNVERIFIED"),
    ],
)
def test_a_part_of_a_rebuild_is_never_told_as_the_whole(
    copy: Path, alice: Key, last: str, changes: dict[str, Any], verdict: str
) -> None:
    place(copy, signed(copy, alice, rebuilt(copy, last, **changes)))
    summary, result = check(copy, alice)
    assert (summary.verdict, result.verdict) == (verdict, verdict)
    assert changes.get("detail", "made again") in result.detail
    assert "whole bundle" not in summary.detail


def digest_of_another(report: Any) -> None:
    report["stages"][1] |= {"recorded": "1" * 64, "rebuilt": "1" * 64}


def pass_of_other_content(report: Any) -> None:
    report["stages"][-1]["rebuilt"] = "1" * 64


def going_on_after_a_failure(report: Any) -> None:
    report["stages"][1] |= {"verdict": "FAIL", "rebuilt": "1" * 64}


def without_training(report: Any) -> None:
    del report["stages"][1]


def of_nothing(report: Any) -> None:
    report["stages"] = []


def of_another_platform(report: Any) -> None:
    report["platform"]["cpu_model"] = "another"


def with_more(report: Any) -> None:
    report["better"] = True


@pytest.mark.parametrize(
    ("forgery", "told"),
    [
        (digest_of_another, "not those that the bundle records"),
        (without_training, "not those that the bundle records"),
        (pass_of_other_content, "bundle: PASS does not follow"),
        (going_on_after_a_failure, "pretrain: FAIL does not follow"),
        (of_nothing, "stages"),
        (of_another_platform, "does not have the digest"),
        (with_more, "better"),
    ],
)
def test_a_report_that_contradicts_the_bundle_or_itself_counts_for_nothing(
    copy: Path, alice: Key, forgery: Callable[[Any], None], told: str
) -> None:
    report = rebuilt(copy)
    forgery(report)
    place(copy, signed(copy, alice, report))
    summary, result = check(copy, alice)
    assert (summary.check, result.check) == ("note", "note")
    assert told in result.detail


# ---- making them ----------------------------------------------------------------------------------------------------


def sign(bundle: Path, key: Key, report: Any) -> Path:
    path = bundle.parent / "report.json"
    path.write_text(
        json.dumps({"format": "openwright-report/1", "checks": [], "rebuild": {}, "rebuild_report": report})
    )
    return attestations.attest(bundle, load_private_key(key.private, lambda: ""), path)


def test_what_we_sign_is_the_report(copy: Path, alice: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.attestations.verify_bundle", lambda bundle, tokens: [])
    made = forge.read(sign(copy, alice, rebuilt(copy)))
    assert statement_of(made) == statement_of(signed(copy, alice, rebuilt(copy)))
    assert [result.verdict for result in check(copy, alice)] == ["PASS", "PASS"]
    with pytest.raises(ConfigError, match="nothing was begun"):
        sign(copy, alice, None)
    with pytest.raises(BundleError, match="PASS does not follow"):
        sign(copy, alice, rebuilt(copy, rebuilt="1" * 64))
    other = rebuilt(copy)
    other["bundle"]["version"] = "9"
    with pytest.raises(BundleError, match=r"a report of tiny 9"):
        sign(copy, alice, other)


def test_a_rebuild_that_began_nothing_has_no_report(copy: Path, tmp_path: Path) -> None:
    plan = RebuildPlan(copy, tmp_path, tmp_path, ("corpus", "release"), (), False, ())
    assert rebuild_report(plan, Rebuild([], [], []), isolated=False, local_data=False) is None


def test_a_stage_that_could_not_be_made_has_no_digest_and_no_path_of_this_machine(copy: Path, tmp_path: Path) -> None:
    plan = RebuildPlan(copy, tmp_path / "work", tmp_path, ("corpus", "release"), (), False, ())
    result = CheckResult("rebuild", "corpus", "UNVERIFIED", f"not fetched: {tmp_path}/work/sources/x", "")
    report = rebuild_report(plan, Rebuild([result], [], [("corpus", result)]), isolated=False, local_data=True)
    (stage,) = report["stages"]
    assert (stage["stage"], stage["rebuilt"], stage["detail"]) == ("corpus", None, "not fetched: sources/x")
    assert report["local_data"]


# ---- a stranger's file neither raises nor spoils anything -----------------------------------------------------------


def verdict_of(bundle: Path, **options: Any) -> tuple[str, set[str]]:
    """What `verify` makes of it all, and the checks that stand for attestations."""
    digest = forge.entry(bundle, "model/manifest.json")["sha256"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.checks._guarded", lambda name, *others: CheckResult("records", name, "PASS", "", ""))
        found = verify_release(bundle, expect=digest, tokens="none", **options)
    passed = [result for result in found if not (result.name.endswith(" tokens") and result.verdict == "UNVERIFIED")]
    return overall(passed), {r.check for r in found if "attestations" in (r.name, r.check)}


def test_whatever_a_stranger_adds_to_the_attestations_changes_no_verdict(
    copy: Path, alice: Key, tmp_path: Path
) -> None:
    stranger = Key(tmp_path, "stranger")
    assert verdict_of(copy) == ("PASS", set())
    attest(copy, stranger, name="aa-01.json")
    attest(copy, stranger, {"verdict": "FAIL", "num_equal_steps": 0}, name="aa-02.json")
    place(copy, signed(copy, stranger, rebuilt(copy, rebuilt="1" * 64, verdict="FAIL")), "aa-03.json")
    place(copy, b"\xff[", "aa-04.json")
    assert verdict_of(copy) == ("PASS", {"note"})
    assert verdict_of(copy, attesters=[alice.public]) == ("UNVERIFIED", {"attestations"}), "alice was asked for"
    attest(copy, alice, name="aa-05.json")
    assert verdict_of(copy, attesters=[alice.public]) == ("PASS", {"attestations"})
    attest(copy, alice, {"verdict": "FAIL", "num_equal_steps": 0}, name="aa-06.json")
    assert verdict_of(copy, attesters=[alice.public]) == ("FAIL", {"attestations"})
    assert verdict_of(copy) == ("PASS", {"note"}), "to whom alice is a stranger"


def test_the_standalone_verifier_notes_them_with_the_command_that_judges(copy: Path, alice: Key) -> None:
    digest = forge.entry(copy, "model/manifest.json")["sha256"]
    before = overall(verify_bundle(copy, expect=digest, tokens="all"))
    attest(copy, alice)
    found = verify_bundle(copy, expect=digest, tokens="all")
    (noted,) = (result for result in found if result.name == "attestations")
    assert (noted.check, noted.verdict) == ("note", "UNVERIFIED")
    assert "openwright verify --attester" in noted.detail
    assert overall(found) == before == "PASS"


@pytest.mark.parametrize("name", ["attestations/a.txt", "attestations/more/aa-01.json", "attestations/-a.json"])
def test_what_has_not_the_name_of_an_attestation_is_an_unlisted_file(copy: Path, name: str) -> None:
    replace_file(copy / "model" / name, b"{}")
    found = {result.name: result for result in verify_bundle(copy, tokens="none")}
    assert found["model files"].verdict == "FAIL"
    assert name in found["model files"].where
