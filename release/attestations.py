"""Attestations: what somebody replayed of a bundle, signed by them (`openwright-attestation/1`).

An attestation is an in-toto statement in a DSSE envelope, made with the public libraries of these formats. It lies in
`model/attestations/`, which no manifest lists and no signature covers: it is made later, by others. It carries the
public key that signed it, so that the signature can be checked; who holds the key is for the reader to know. An
attestation by a key that the reader did not give is shown and stays UNVERIFIED.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, SSlibKey

from provenance.canonical import Json, canonical_json, parse_json, write_json
from provenance.config import Config
from provenance.digests import sha256_bytes, tagged_digest
from provenance.durability import sync_path
from provenance.errors import BundleError, ConfigError
from release.keys import PrivateKey, PublicKey, parse_public_key
from release.replay_report import ReplayedBundle, ReplayedSegment, ReplayReport, bundle_identity
from release.signing import require_whole
from release.verify import (
    CheckResult,
    Mismatch,
    Tree,
    Unverifiable,
    need,
    require,
    show,
    verify_bundle,
)
from release.verify import parse_json as parse_strictly

FOLDER = "attestations"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:openwright:replay-attestation:1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ATTESTATION_BYTES, MAX_ATTESTATIONS = 2**20, 1000

_CHECK = "attestations"
_PLACE = f"model/{FOLDER}"
_NAME = re.compile(r"[0-9a-f][0-9a-f-]*\.json")
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, RecursionError, SigningError)


class ReplayPredicate(Config):
    """What the statement says: the report of a replay, and the key that vouches for it, as PEM text."""

    public_key: str
    report: ReplayReport


@dataclass(frozen=True)
class Attestation:
    """An attestation whose own signature holds, and that speaks of this bundle."""

    key: PublicKey
    report: ReplayReport

    @property
    def verdict(self) -> str:
        """The worst verdict of its segments."""
        return _worst(segment.verdict for segment in self.report.segments)


def attest(bundle: Path, key: PrivateKey, report_path: Path) -> Path:
    """Sign the report of a replay of this bundle and put it beside the others.

    Args:
        report_path: what `openwright reproduce BUNDLE --json` printed.

    Returns:
        Path of the attestation.

    Raises:
        ConfigError: for a file that is no such report.
        BundleError: when the bundle does not verify, or the report is of another one.
    """
    report = _read_report(report_path)
    require_whole(bundle, verify_bundle(bundle, tokens="none"), checks=("bytes",))
    identity = bundle_identity(bundle / "model")
    if report.bundle != identity:
        found = f"a replay of {report.bundle.name} {report.bundle.version}, manifest {report.bundle.manifest_sha256}"
        raise BundleError(
            show(found),
            expected=f"one of this bundle, manifest {identity.manifest_sha256}",
            where=str(report_path),
            next_command=f"openwright reproduce {bundle} --json > REPORT.json",
        )
    try:
        _require_possible(Tree(bundle / "model", "model"), report)
    except Mismatch as error:
        raise BundleError(error.detail, where=str(report_path)) from None
    envelope = _signed(_statement(report, key.public), key)
    name = f"{key.public.fingerprint.removeprefix('SHA256:')[:12]}-{sha256_bytes(envelope.payload)[:12]}.json"
    return _write(bundle / "model" / FOLDER / name, envelope.to_dict())


def _read_report(path: Path) -> ReplayReport:
    wanted = "what `openwright reproduce BUNDLE --json` printed"
    try:
        with path.open("rb") as file:
            values = parse_json(file.read(MAX_ATTESTATION_BYTES), str(path))
        return ReplayReport.model_validate(values["replay"])
    except OSError as error:
        raise ConfigError(f"cannot read ({error.strerror})", expected=wanted, where=str(path)) from None
    except (BundleError, *_MALFORMED) as error:
        found = _first_problem(error) if isinstance(error, ValidationError) else "no report of a replay"
        raise ConfigError(found, expected=wanted, where=str(path)) from None


def _statement(report: ReplayReport, key: PublicKey) -> Json:
    """The in-toto statement: its subjects are the two manifests, which bind every file of the bundle."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": _subjects(report.bundle),
        "predicateType": PREDICATE_TYPE,
        "predicate": ReplayPredicate(public_key=key.pem, report=report).model_dump(),
    }


def _subjects(bundle: ReplayedBundle) -> list[Json]:
    digests = {
        "model/manifest.json": bundle.manifest_sha256,
        "dataset/manifest.json": bundle.dataset_manifest_sha256,
    }
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()]


def _signed(statement: Json, key: PrivateKey) -> Envelope:
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key.key, SSlibKey.from_crypto(key.key.public_key(), keyid=key.public.fingerprint)))
    return envelope


def _write(path: Path, value: Json) -> Path:
    partial = path.with_suffix(".partial")
    write_json(partial, value)
    sync_path(partial)
    os.replace(partial, path)
    return path


def check_attestations(model: Tree, identity: ReplayedBundle, known: Sequence[PublicKey]) -> list[CheckResult]:
    """Check every attestation of a bundle; one result for all of them and one for each.

    Args:
        model: files of `model/`.
        identity: the bundle that they have to speak of.
        known: public keys that the user gave.
    """
    found, results = [], []
    paths = model.below(f"{FOLDER}/")
    if len(paths) > MAX_ATTESTATIONS:
        detail = f"{len(paths):,} files, more than {MAX_ATTESTATIONS:,}: none was read"
        return [CheckResult(_CHECK, _CHECK, "FAIL", detail, _PLACE)]
    for path in paths:
        name, where = path.removeprefix(f"{FOLDER}/"), model.place(path)
        try:
            attestation = _read_attestation(model, path, identity)
        except Mismatch as error:
            verdict = "UNVERIFIED" if isinstance(error, Unverifiable) else "FAIL"
            results.append(CheckResult(_CHECK, name, verdict, error.detail, where))
        except _MALFORMED as error:
            detail = _first_problem(error) if isinstance(error, ValidationError) else show(str(error))
            results.append(CheckResult(_CHECK, name, "FAIL", f"malformed: {detail}", where))
        else:
            found.append(attestation)
            results.append(_result(attestation, name, where, known))
    return [_summary(found, results, known), *results]


def _read_attestation(model: Tree, path: str, identity: ReplayedBundle) -> Attestation:
    """Read an attestation; raises unless its own signature holds and it speaks of this bundle."""
    require(_NAME.fullmatch(path.removeprefix(f"{FOLDER}/")), "a name other than hexadecimal digits and .json")
    require(model.files[path] <= MAX_ATTESTATION_BYTES, f"larger than {MAX_ATTESTATION_BYTES:,} bytes")
    with model.open(path) as file:
        envelope = Envelope.from_dict(parse_strictly(file.read(MAX_ATTESTATION_BYTES + 1), path))
    require(envelope.payload_type == PAYLOAD_TYPE, f"a payload of type {show(envelope.payload_type)}")
    statement = parse_strictly(envelope.payload, path)
    require(statement["_type"] == STATEMENT_TYPE, f"a statement of type {show(statement['_type'])}")
    kind = statement["predicateType"]
    need(kind == PREDICATE_TYPE, f"not judged: it is of type {show(kind)}; this program reads {PREDICATE_TYPE}")
    predicate = ReplayPredicate.model_validate(statement["predicate"])
    key, report = parse_public_key(predicate.public_key.encode()), predicate.report
    _require_signature(envelope, key)
    told = f"it speaks of another bundle: {report.bundle.name} {report.bundle.version}"
    is_of_this = statement["subject"] == _subjects(identity) and report.bundle == identity
    require(is_of_this, show(f"{told}, manifest {report.bundle.manifest_sha256}"))
    _require_possible(model, report)
    return Attestation(key, report)


def _require_signature(envelope: Envelope, key: PublicKey) -> None:
    require(list(envelope.signatures) == [key.fingerprint], f"it is not signed by {key.fingerprint} alone, its own key")
    try:
        envelope.verify([SSlibKey.from_crypto(key.key, keyid=key.fingerprint)], threshold=1)
    except SigningError:
        raise Mismatch(f"its signature does not hold: the key {key.fingerprint} did not sign this statement") from None


def _require_possible(model: Tree, report: ReplayReport) -> None:
    """Raise a Mismatch for steps that the bundle does not have, and for a report that contradicts itself."""
    for segment in report.segments:
        name = f"{show(segment.stage)} steps {segment.first_step}-{segment.last_step}"
        num_steps = model.json(f"training/{segment.stage}/run.json", "openwright-run/1")["num_steps"]
        is_there = segment.first_step <= segment.last_step <= num_steps
        require(is_there, f"{name}: the bundle has steps 1 to {num_steps}")
        num_equal, at_most = segment.num_equal_steps, segment.last_step - segment.first_step + 1
        is_claimed = (segment.verdict, segment.comparison) == ("PASS", "bitwise")
        is_sound = num_equal <= at_most and (num_equal > 0 or not is_claimed)
        require(is_sound, f"{name}: {segment.verdict} {segment.comparison} with {num_equal} equal steps")
        if segment.platform is not None:
            record = {key: value for key, value in segment.platform.items() if key != "digest"}
            is_same = segment.platform.get("digest") == tagged_digest("platform/1", record)
            require(is_same, f"{name}: the platform record does not have the digest that it names")


def _result(attestation: Attestation, name: str, where: str, known: Sequence[PublicKey]) -> CheckResult:
    """What one attestation says, as PASS or FAIL only where the reader knows the key."""
    report, fingerprint = attestation.report, attestation.key.fingerprint
    names = [key.name for key in known if key.fingerprint == fingerprint]
    who = f"the key {fingerprint}, " + (f"which you gave ({names[0]})" if names else "which you did not give")
    told = "; ".join(map(_segment_text, report.segments))
    detail = f"{who}, says of {report.date_utc}: {told} ({report.choice})"
    return CheckResult(_CHECK, name, attestation.verdict if names else "UNVERIFIED", detail, where)


def _segment_text(segment: ReplayedSegment) -> str:
    steps = f"{show(segment.stage)} steps {segment.first_step}-{segment.last_step} {segment.verdict}"
    if segment.verdict != "PASS" or segment.comparison != "bitwise":  # a tolerance is no better than its thresholds
        return f"{steps}: {show(segment.detail)}"
    digest = str((segment.platform or {}).get("digest"))
    place = "the recorded platform" if digest == segment.recorded_platform else f"another platform, {show(digest[:12])}"
    return f"{steps}, {segment.comparison}, {segment.num_equal_steps} steps equal bit for bit, on {place}"


def _summary(found: Sequence[Attestation], results: Sequence[CheckResult], known: Sequence[PublicKey]) -> CheckResult:
    """How many keys attest, how many of them the reader knows, and which steps these replayed."""
    given = {key.fingerprint for key in known}
    keys = {attestation.key.fingerprint for attestation in found}
    told = f"{len(found)} attestation{'s' * (len(found) != 1)} by {len(keys)} "
    told += f"{'key' if len(keys) == 1 else 'different keys'}, of which {len(keys & given)} you know"
    trusted = [attestation for attestation in found if attestation.key.fingerprint in given]
    if steps := _steps_text(segment for attestation in trusted for segment in attestation.report.segments):
        told += f"; replayed by those, {steps}"
    elif not trusted and found:
        told += ": give the public keys of people whom you trust with --attester PUB.pem"
    bad = [result for result in results if result.verdict == "FAIL"]
    if bad:
        told = f"{bad[0].name}: {bad[0].detail}" + (f" (and {len(bad) - 1} more)" if bad[1:] else "") + f"; {told}"
    passed = any(result.verdict == "PASS" for result in results)
    return CheckResult(_CHECK, _CHECK, "FAIL" if bad else "PASS" if passed else "UNVERIFIED", told, _PLACE)


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


def _worst(verdicts: Iterable[str]) -> str:
    found = set(verdicts)
    return next(verdict for verdict in ("FAIL", "UNVERIFIED", "PASS") if verdict in found)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return show(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
