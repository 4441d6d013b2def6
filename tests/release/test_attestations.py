"""Attestations: made by our command, forged without us, and each forgery caught by the check that must catch it."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import Built, replace_file
from cryptography.hazmat.primitives.asymmetric import ec
from forge_signatures import Key, attest, attestation_of, envelope, place, report_of, sign_model, statement_of
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement

from provenance.errors import BundleError, ConfigError
from release import attestations
from release.attestations import check_attestations
from release.checks import verify_release
from release.keys import load_private_key, load_public_key
from release.replay_report import bundle_identity
from release.verify import CheckResult, Tree

FAILED = {"verdict": "FAIL", "detail": "first difference at step 2, record step: numerics", "num_equal_steps": 1}


@pytest.fixture
def alice(tmp_path: Path) -> Key:
    return Key(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path: Path) -> Key:
    return Key(tmp_path, "bob", ec.SECP384R1())


def check(bundle: Path, *known: Key) -> list[CheckResult]:
    """The summary, then a result for each attestation."""
    given = [load_public_key(key.public) for key in known]
    return check_attestations(Tree(bundle / "model", "model"), bundle_identity(bundle / "model"), given)


def assert_no_attestation(results: list[CheckResult]) -> None:
    """A file that holds no attestation is a note, whoever is asked for: it can neither raise nor spoil anything."""
    assert [(result.check, result.verdict) for result in results] == [("note", "UNVERIFIED")] * 2
    assert "0 attestations" in results[0].detail


def write_report(bundle: Path, *segments: dict[str, Any], **changes: Any) -> Path:
    path = bundle.parent / "report.json"
    document = {"format": "openwright-report/1", "checks": [], "share": 0.5, "replay": report_of(bundle, *segments)}
    document["replay"] |= changes
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def sign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Key, Path], Path]:
    """Our command, without the checks of `verify.py` that come before it."""
    monkeypatch.setattr("release.attestations.verify_bundle", lambda bundle, tokens: [])
    return lambda bundle, key, report: attestations.attest(bundle, load_private_key(key.private, lambda: ""), report)


def test_what_we_sign_is_an_in_toto_statement_over_both_manifests(copy: Path, alice: Key, sign: Any) -> None:
    path = sign(copy, alice, write_report(copy))
    assert path.name.startswith(alice.digest[:12])
    made = forge.read(path)
    statement = statement_of(made)
    parsed = Statement([], "", {})
    json_format.Parse(base64.b64decode(made["payload"]), parsed.pb)
    parsed.validate()
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        f"{part}/manifest.json": forge.entry(copy, f"{part}/manifest.json")["sha256"] for part in ("model", "dataset")
    }
    assert statement == attestation_of(copy, alice), "it says what the report says, and no more"
    assert [result.verdict for result in check(copy, alice)] == ["PASS", "PASS"]


def test_it_tells_who_when_and_what(copy: Path, alice: Key, bob: Key) -> None:
    attest(copy, alice, name="aa-01.json")
    attest(copy, bob, {"stage": "sft", "last_step": 1, "num_equal_steps": 1}, name="bb-02.json")
    summary, first, second = check(copy, alice)
    assert (summary.verdict, first.verdict, second.verdict) == ("PASS", "PASS", "UNVERIFIED")
    assert (summary.check, first.check, second.check) == ("attestations", "attestations", "note")
    assert "2 attestations by 2 different keys, of which 1 you know" in summary.detail
    assert "bitwise: pretrain steps 1-2" in summary.detail
    assert "sft" not in summary.detail, "replayed by a key that nobody vouched for"
    assert f"{alice.fingerprint}, which you gave (alice.pub.pem), says of 2026-11-25T12:00:00Z" in first.detail
    assert "pretrain steps 1-2 PASS, bitwise, 2 steps equal bit for bit, on the recorded platform" in first.detail
    assert "drawn with seed 18446744073709551615: 1 of 4 segments" in first.detail
    assert f"{bob.fingerprint}, which you did not give" in second.detail


def test_keys_that_nobody_gave_are_shown_and_unverified(copy: Path, alice: Key, bob: Key) -> None:
    attest(copy, alice, name="aa-01.json")
    attest(copy, alice, FAILED, name="aa-02.json")
    assert {(result.check, result.verdict) for result in check(copy)} == {("note", "UNVERIFIED")}
    assert "2 attestations by 1 key, of which 0 you know" in check(copy, bob)[0].detail


def test_a_replay_that_failed_is_never_told_more_nicely(copy: Path, alice: Key, sign: Any) -> None:
    sign(copy, alice, write_report(copy, {}, {"first_step": 2, "last_step": 2, **FAILED}))
    summary, result = check(copy, alice)
    assert (summary.verdict, result.verdict) == ("FAIL", "FAIL")
    assert "pretrain steps 2-2 FAIL: first difference at step 2" in result.detail
    unsure = {"verdict": "UNVERIFIED", "detail": "another platform", "num_equal_steps": 0}
    attest(copy, alice, unsure, name="ab-02.json")
    assert {result.name: result.verdict for result in check(copy, alice)}["ab-02.json"] == "UNVERIFIED"


def test_one_key_counts_once_and_so_does_a_step(copy: Path, alice: Key) -> None:
    path = attest(copy, alice, name="aa-01.json")
    shutil.copyfile(path, path.with_name("bb-02.json"))
    attest(copy, alice, {"first_step": 2, "last_step": 3}, {"first_step": 4, "last_step": 4, "num_equal_steps": 1})
    summary = check(copy, alice)[0]
    assert "3 attestations by 1 key, of which 1 you know" in summary.detail
    assert summary.detail.endswith("bitwise: pretrain steps 1-4")


def test_tolerance_is_told_apart_from_equal_bits(copy: Path, alice: Key) -> None:
    loose = {"comparison": "within tolerance", "num_equal_steps": 0, "detail": "within thresholds of nobody"}
    attest(copy, alice, {}, {"first_step": 3, "last_step": 4, **loose})
    summary, result = check(copy, alice)
    assert "bitwise: pretrain steps 1-2; within tolerance: pretrain steps 3-4" in summary.detail
    assert "pretrain steps 3-4 PASS: within thresholds of nobody" in result.detail


# ---- forgeries ------------------------------------------------------------------------------------------------------


def edited(bundle: Path, key: Key) -> Any:
    """A failed replay made a success after it was signed."""
    made = envelope(attestation_of(bundle, key, FAILED), key, key.fingerprint)
    payload = base64.b64decode(made["payload"]).replace(b'"FAIL"', b'"PASS"')
    return {**made, "payload": base64.b64encode(payload).decode()}


def signed_by_another(bundle: Path, key: Key) -> Any:
    return envelope(attestation_of(bundle, key), Key(bundle.parent, "forger"), key.fingerprint)


def with_the_key_of_another(bundle: Path, key: Key) -> Any:
    """A forger's own statement and key under the name of somebody else."""
    forger = Key(bundle.parent, "forger")
    return envelope(attestation_of(bundle, forger), forger, key.fingerprint)


def of_another_bundle(bundle: Path, key: Key) -> Any:
    statement = attestation_of(bundle, key)
    statement["predicate"]["report"]["bundle"]["manifest_sha256"] = "0" * 64
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    return envelope(statement, key, key.fingerprint)


def with_another_subject(bundle: Path, key: Key) -> Any:
    statement = attestation_of(bundle, key)
    statement["subject"][1]["digest"]["sha256"] = "0" * 64
    return envelope(statement, key, key.fingerprint)


def without_a_signature(bundle: Path, key: Key) -> Any:
    return {**envelope(attestation_of(bundle, key), key, key.fingerprint), "signatures": []}


def with_two_signatures(bundle: Path, key: Key) -> Any:
    made, other = envelope(attestation_of(bundle, key), key, key.fingerprint), Key(bundle.parent, "forger")
    signature = {"keyid": other.fingerprint, "sig": other.sign(base64.b64decode(made["payload"]))}
    return {**made, "signatures": [*made["signatures"], signature]}


def of_steps_that_are_not_there(bundle: Path, key: Key) -> Any:
    return envelope(attestation_of(bundle, key, {"last_step": 5000}), key, key.fingerprint)


def of_a_stage_that_is_not_there(bundle: Path, key: Key) -> Any:
    return envelope(attestation_of(bundle, key, {"stage": "../pretrain"}), key, key.fingerprint)


def of_more_steps_than_it_names(bundle: Path, key: Key) -> Any:
    return envelope(attestation_of(bundle, key, {"num_equal_steps": 3}), key, key.fingerprint)


def of_nothing(bundle: Path, key: Key) -> Any:
    return envelope(attestation_of(bundle, key, {"num_equal_steps": 0}), key, key.fingerprint)


def drawn_from_none(bundle: Path, key: Key) -> Any:
    statement = attestation_of(bundle, key)
    statement["predicate"]["report"]["choice"]["num_segments_in_all"] = 0
    return envelope(statement, key, key.fingerprint)


def drawn_from_fewer(bundle: Path, key: Key) -> Any:
    statement = attestation_of(bundle, key)
    statement["predicate"]["report"]["choice"].update(num_segments=3, num_segments_in_all=2)
    return envelope(statement, key, key.fingerprint)


def with_an_edited_platform(bundle: Path, key: Key) -> Any:
    statement = attestation_of(bundle, key)
    statement["predicate"]["report"]["segments"][0]["platform"]["cpu_model"] = "another"
    return envelope(statement, key, key.fingerprint)


@pytest.mark.parametrize(
    ("forgery", "told"),
    [
        (edited, "its signature does not hold"),
        (signed_by_another, "its signature does not hold"),
        (with_the_key_of_another, "its own key"),
        (without_a_signature, "its own key"),
        (with_two_signatures, "its own key"),
        (of_another_bundle, "it speaks of another bundle"),
        (with_another_subject, "it speaks of another bundle"),
        (of_steps_that_are_not_there, "the bundle has steps 1 to"),
        (of_a_stage_that_is_not_there, "the file is missing"),
        (of_more_steps_than_it_names, "with 3 equal steps"),
        (of_nothing, "with 0 equal steps"),
        (with_an_edited_platform, "does not have the digest"),
        (drawn_from_none, "num_segments_in_all"),
        (drawn_from_fewer, "3 segments drawn of 2"),
    ],
)
def test_a_forged_attestation_counts_for_nothing_and_is_named(
    copy: Path, alice: Key, forgery: Callable[[Path, Key], Any], told: str
) -> None:
    place(copy, forgery(copy, alice), "bad-01.json")
    for known in ((alice,), ()):
        summary, result = check(copy, *known)
        assert (summary.check, result.check, result.verdict) == ("note", "note", "UNVERIFIED")
        assert told in result.detail
        assert "bad-01.json counts for nothing: " in summary.detail
        assert "0 attestations by 0 different keys" in summary.detail


def test_one_bad_attestation_does_not_hide_a_good_one(copy: Path, alice: Key) -> None:
    attest(copy, alice, name="aa-01.json")
    place(copy, edited(copy, alice), "bad-01.json")
    assert [(r.check, r.verdict) for r in check(copy, alice)][:2] == [("attestations", "PASS")] * 2
    assert [(r.check, r.verdict) for r in check(copy, alice)][2:] == [("note", "UNVERIFIED")]


def test_attestations_of_a_bundle_do_not_fit_the_one_that_was_forged_from_it(copy: Path, alice: Key) -> None:
    attest(copy, alice)
    root = forge.read(copy / "model" / "manifest.json")
    replace_file(copy / "model" / "manifest.json", json.dumps({**root, "version": "0.2"}))
    assert "another bundle" in check(copy, alice)[1].detail


@pytest.mark.parametrize("key", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_statement_without_a_key_of_its_own_counts_for_nothing(copy: Path, alice: Key, key: str) -> None:
    statement = attestation_of(copy, alice)
    statement["predicate"]["public_key"] = key
    place(copy, envelope(statement, alice, alice.fingerprint))
    assert_no_attestation(check(copy, alice))


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{}",
            b"[]",
            b"null",
            b"5",
            b"[" * 100_000,
            b"\xff\xfe",
            b'{"payload":"a","payload":"b"}',
            b'{"a":NaN}',
        ),
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b'{"payload":"bnVsbA==","payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b'{"payload":"!","payloadType":"text/plain","signatures":[{"keyid":1,"sig":2}]}',
        b'{"payload":"e30=","payloadType":"text/plain","signatures":[]}',
        b'{"payload":["e30="],"payloadType":7,"signatures":{"keyid":"x"}}',
        b'{"payload":"e30=","payloadType":"","signatures":[{"keyid":"x","sig":"AAAA"},{"keyid":"x","sig":"AAAA"}]}',
        b'{"payload":"%s"}' % (b"A" * 2**20),
    ],
)
def test_malformed_envelopes_count_for_nothing_and_never_end_the_program(
    copy: Path, alice: Key, content: bytes
) -> None:
    place(copy, content)
    assert_no_attestation(check(copy, alice))


def drop(*keys: str | int) -> Callable[[Any], None]:
    def change(statement: Any) -> None:
        for key in keys[:-1]:
            statement = statement[key]
        del statement[keys[-1]]

    return change


def put(value: Any, *keys: str | int) -> Callable[[Any], None]:
    def change(statement: Any) -> None:
        for key in keys[:-1]:
            statement = statement[key]
        statement[keys[-1]] = value

    return change


REPORT = ("predicate", "report")


@pytest.mark.parametrize(
    "change",
    [
        *(drop("subject"), drop("_type"), drop("predicateType"), drop("predicate"), drop(*REPORT, "segments", 0)),
        *(put("x", "_type"), put([], "predicate"), put([], "subject"), put("x", *REPORT, "format")),
        *(put("yesterday", *REPORT, "date_utc"), put(1, *REPORT, "segments", 0, "verdict"), put("x", *REPORT, "more")),
        *(put("FINE", *REPORT, "segments", 0, "verdict"), put("loosely", *REPORT, "segments", 0, "comparison")),
        *(put(0, *REPORT, "segments", 0, "first_step"), put(-1, *REPORT, "segments", 0, "num_equal_steps")),
    ],
)
def test_malformed_statements_count_for_nothing_though_they_are_signed(
    copy: Path, alice: Key, change: Callable[[Any], None]
) -> None:
    statement = attestation_of(copy, alice)
    change(statement)
    place(copy, envelope(statement, alice, alice.fingerprint))
    assert_no_attestation(check(copy, alice))


def test_statements_of_other_kinds_and_versions_are_unverified(copy: Path, alice: Key) -> None:
    for number, kind in enumerate(("urn:openwright:replay-attestation:2", "https://slsa.dev/provenance/v1")):
        statement = {**attestation_of(copy, alice), "predicateType": kind}
        place(copy, envelope(statement, alice, alice.fingerprint), f"aa-{number}.json")
    results = check(copy, alice)
    assert {(result.check, result.verdict) for result in results} == {("note", "UNVERIFIED")}
    assert "replay-attestation:2; this program reads urn:openwright:replay-attestation:1" in results[1].detail


@pytest.mark.parametrize("name", ["note.txt", "use_policy.json", "more/aa-01.json", "AA.json", "aa-\n.json"])
def test_files_with_other_names_fail(copy: Path, alice: Key, name: str) -> None:
    path = attest(copy, alice)
    (path.parent / name).parent.mkdir(exist_ok=True)
    path.rename(path.parent / name)
    assert results_of(copy)["tree" if "\n" in name else "model files"].verdict == "FAIL"


def test_of_more_files_than_anyone_reads_none_counts(copy: Path, alice: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestations, "MAX_ATTESTATIONS", 1)
    attest(copy, alice, name="aa-01.json")
    attest(copy, alice, name="aa-02.json")
    (result,) = check(copy, alice)
    assert (result.check, result.verdict) == ("note", "UNVERIFIED")
    assert results_of(copy, attesters=[alice.public])["attestations"].check == "attestations"


# ---- making them ----------------------------------------------------------------------------------------------------


def test_a_report_of_another_bundle_is_not_signed(copy: Path, alice: Key, sign: Any) -> None:
    report = write_report(copy)
    root = forge.read(copy / "model" / "manifest.json")
    replace_file(copy / "model" / "manifest.json", json.dumps({**root, "version": "0.2"}))
    with pytest.raises(BundleError, match=r"a report of tiny 0\.1"):
        sign(copy, alice, report)
    assert not (copy / "model" / "attestations").exists()


def test_a_report_of_steps_that_the_bundle_lacks_is_not_signed(copy: Path, alice: Key, sign: Any) -> None:
    with pytest.raises(BundleError, match="the bundle has steps 1 to"):
        sign(copy, alice, write_report(copy, {"last_step": 5000}))


def test_what_is_no_report_is_not_signed(copy: Path, alice: Key, sign: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    for text in ("", "[]", "{}", '{"replay": null}', '{"replay": {"format": "openwright-replay-report/1"}}'):
        path.write_text(text)
        with pytest.raises(ConfigError):
            sign(copy, alice, path)
    with pytest.raises(ConfigError, match="format"):
        sign(copy, alice, write_report(copy, format="openwright-replay-report/9"))
    with pytest.raises(ConfigError, match="cannot read"):
        sign(copy, alice, tmp_path / "none.json")


def test_nothing_is_attested_of_a_bundle_whose_files_are_not_the_listed_ones(copy: Path, alice: Key) -> None:
    report = write_report(copy)
    replace_file(copy / "model" / "LICENSE", "another licence")
    with pytest.raises(BundleError, match="model files is FAIL"):
        attestations.attest(copy, load_private_key(alice.private, lambda: ""), report)


# ---- in the report of verify ----------------------------------------------------------------------------------------


def results_of(bundle: Path, **options: Any) -> dict[str, CheckResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.checks._guarded", lambda name, *others: CheckResult("records", name, "PASS", "", ""))
        return {r.name: r for r in verify_release(bundle, expect=None, tokens="none", **options)}


def test_verify_shows_attestations_and_knows_the_publishers_key_as_such(copy: Path, alice: Key, bob: Key) -> None:
    attest(copy, alice, name="aa-01.json")
    attest(copy, bob, name="bb-01.json")
    sign_model(copy / "model", alice)
    found = results_of(copy, key=alice.public, attesters=[bob.public])
    assert (found["aa-01.json"].verdict, found["bb-01.json"].verdict) == ("PASS", "PASS")
    assert "alice.pub.pem, the key of the publisher" in found["aa-01.json"].detail
    assert "2 different keys, of which 2 you know" in found["attestations"].detail
    assert {r.verdict for r in found.values() if r.check != "records"} == {"PASS"}


def test_verify_says_that_there_are_none_where_some_were_expected(copy: Path, bob: Key) -> None:
    found = results_of(copy, attesters=[bob.public])
    assert found["attestations"].verdict == "UNVERIFIED"
    assert "attestations" not in results_of(copy)


def test_a_link_to_attestations_fails(copy: Path, alice: Key) -> None:
    path = attest(copy, alice)
    os.rename(path.parent, copy.parent / "elsewhere")
    path.parent.symlink_to(copy.parent / "elsewhere")
    assert results_of(copy, attesters=[alice.public])["tree"].verdict == "FAIL"


def test_what_is_added_later_changes_neither_verdict_nor_documents(
    built: Built, copy: Path, alice: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: "the same")
    attest(copy, alice)
    sign_model(copy / "model", alice)
    found = verify_release(copy, expect=None, tokens="all", key=alice.public)
    assert [result for result in found if result.verdict != "PASS"] == []
