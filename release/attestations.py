"""Attestations: what somebody replayed or rebuilt of a bundle, signed by them.

An attestation is an in-toto statement in a DSSE envelope, made with the public libraries of these formats. It lies in
`model/attestations/`, which no manifest lists and no signature covers: it is made later, by others. It carries the
public key that signed it, so that the signature can be checked; who holds the key is for the reader to know. What it
comes to for a reader: `release.attested`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, SSlibKey

from provenance.canonical import Json, canonical_json, parse_json, write_json
from provenance.config import Config
from provenance.digests import sha256_bytes, tagged_digest
from provenance.durability import sync_path
from provenance.errors import BundleError, ConfigError
from release.attested import CHECK, FOLDER, Attestation, attestation_result, note, summary
from release.keys import PrivateKey, PublicKey, parse_public_key
from release.rebuild_report import RebuildReport, recorded_digests
from release.replay_report import ReplayedBundle, ReplayReport, bundle_identity
from release.signing import require_whole
from release.verify import APART, CheckResult, Mismatch, Tree, require, show, verify_bundle
from release.verify import parse_json as parse_strictly

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:openwright:replay-attestation:1"
REBUILD_PREDICATE_TYPE = "urn:openwright:rebuild-attestation:1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ATTESTATION_BYTES, MAX_ATTESTATIONS, MAX_REPORT_BYTES = 2**20, 1000, 64 * 2**20

_REPORT = "what `openwright reproduce BUNDLE --json` printed"
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, SigningError)


class ReplayPredicate(Config):
    """What the statement says: the report of a replay, and the key that vouches for it, as PEM text."""

    public_key: str
    report: ReplayReport


class RebuildPredicate(Config):
    """The same of a rebuild."""

    public_key: str
    report: RebuildReport


Report = ReplayReport | RebuildReport
_PREDICATES: dict[str, type[ReplayPredicate] | type[RebuildPredicate]] = {
    PREDICATE_TYPE: ReplayPredicate,
    REBUILD_PREDICATE_TYPE: RebuildPredicate,
}


def attest(bundle: Path, key: PrivateKey, report_path: Path) -> Path:
    """Sign the report of a replay or a rebuild of this bundle and put it beside the others.

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
        found = f"a report of {report.bundle.name} {report.bundle.version}, manifest {report.bundle.manifest_sha256}"
        raise BundleError(
            show(found),
            expected=f"one of this bundle, manifest {identity.manifest_sha256}",
            where=str(report_path),
            next_command=f"openwright reproduce {quote(str(bundle))} --json > REPORT.json",
        )
    try:
        _require_possible(Tree(bundle / "model", "model"), report)
        payload = canonical_json(_statement(report, key.public))
    except Mismatch as error:
        raise BundleError(error.detail, where=str(report_path)) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"no report: {show(str(error))}", expected=_REPORT, where=str(report_path)) from None
    envelope = _signed(payload, key)
    name = f"{key.public.fingerprint.removeprefix('SHA256:')[:12]}-{sha256_bytes(envelope.payload)[:12]}.json"
    return _write(bundle / "model" / FOLDER / name, envelope.to_dict())


def _read_report(path: Path) -> Report:
    try:
        with path.open("rb") as file:
            values = parse_json(file.read(MAX_REPORT_BYTES), str(path))
        if "rebuild_report" not in values:
            return ReplayReport.model_validate(values["replay"])
        if values["rebuild_report"] is not None:
            return RebuildReport.model_validate(values["rebuild_report"])
        raise ConfigError("a rebuild of which nothing was begun", expected=_REPORT, where=str(path))
    except OSError as error:
        raise ConfigError(f"cannot read ({error.strerror})", expected=_REPORT, where=str(path)) from None
    except (BundleError, *_MALFORMED) as error:
        found = _first_problem(error) if isinstance(error, ValidationError) else "no report of a replay or a rebuild"
        raise ConfigError(found, expected=_REPORT, where=str(path)) from None


def _statement(report: Report, key: PublicKey) -> Json:
    """The in-toto statement: its subjects are the two manifests, which bind every file of the bundle."""
    kind = REBUILD_PREDICATE_TYPE if isinstance(report, RebuildReport) else PREDICATE_TYPE
    return {
        "_type": STATEMENT_TYPE,
        "subject": _subjects(report.bundle),
        "predicateType": kind,
        "predicate": {"public_key": key.pem, "report": report.model_dump()},
    }


def _subjects(bundle: ReplayedBundle) -> list[Json]:
    digests = {
        "model/manifest.json": bundle.manifest_sha256,
        "dataset/manifest.json": bundle.dataset_manifest_sha256,
    }
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()]


def _signed(payload: bytes, key: PrivateKey) -> Envelope:
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
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
        known: public keys that the user gave; attestations by others are notes, and so is what does not hold.
    """
    found: list[Attestation] = []
    results, broken = list[CheckResult](), list[CheckResult]()
    paths = [path for path in model.below(f"{FOLDER}/") if APART.fullmatch(path)]
    if not paths:
        return []
    if len(paths) > MAX_ATTESTATIONS:
        return [note(CHECK, f"{len(paths):,} files, more than {MAX_ATTESTATIONS:,}: none was read")]
    for path in paths:
        name, where = path.removeprefix(f"{FOLDER}/"), model.place(path)
        try:
            attestation = _read_attestation(model, path, identity)
            result = attestation_result(attestation, name, where, known)
        except Mismatch as error:
            broken.append(note(name, error.detail, where))
        except _MALFORMED as error:
            detail = _first_problem(error) if isinstance(error, ValidationError) else show(str(error))
            broken.append(note(name, f"malformed: {detail}", where))
        else:
            found.append(attestation)
            results.append(result)
    return [summary(found, known, broken), *results, *broken]


def _read_attestation(model: Tree, path: str, identity: ReplayedBundle) -> Attestation:
    """Read an attestation; raises unless its own signature holds and it speaks of this bundle."""
    require(model.files[path] <= MAX_ATTESTATION_BYTES, f"larger than {MAX_ATTESTATION_BYTES:,} bytes")
    with model.open(path) as file:
        envelope = Envelope.from_dict(parse_strictly(file.read(MAX_ATTESTATION_BYTES + 1), path))
    require(envelope.payload_type == PAYLOAD_TYPE, f"a payload of type {show(envelope.payload_type)}")
    statement = parse_strictly(envelope.payload, path)
    require(statement["_type"] == STATEMENT_TYPE, f"a statement of type {show(statement['_type'])}")
    kind, known = statement["predicateType"], " and ".join(_PREDICATES)
    require(kind in _PREDICATES, f"not judged: it is of type {show(kind)}; this program reads {known}")
    predicate = _PREDICATES[kind].model_validate(statement["predicate"])
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


def _require_possible(model: Tree, report: Report) -> None:
    """Raise a Mismatch for what the bundle does not have, and for a report that contradicts itself."""
    if isinstance(report, RebuildReport):
        _require_possible_rebuild(model, report)
        return
    drawn, total = report.choice.num_segments, report.choice.num_segments_in_all
    require(total is None or drawn <= total, f"{drawn} segments drawn of {total}")
    for segment in report.segments:
        name = f"{show(segment.stage)} steps {segment.first_step}-{segment.last_step}"
        num_steps = model.json(f"training/{segment.stage}/run.json", "openwright-run/1")["num_steps"]
        is_there = segment.first_step <= segment.last_step <= num_steps
        require(is_there, f"{name}: the bundle has steps 1 to {num_steps}")
        num_equal, at_most = segment.num_equal_steps, segment.last_step - segment.first_step + 1
        is_claimed = (segment.verdict, segment.comparison) == ("PASS", "bitwise")
        is_sound = num_equal <= at_most and (num_equal > 0 or not is_claimed)
        require(is_sound, f"{name}: {segment.verdict} {segment.comparison} with {num_equal} equal steps")
        _require_platform(segment.platform, name)


def _require_possible_rebuild(model: Tree, report: RebuildReport) -> None:
    """The stages are those of the bundle from the first on, and each passes where its digest is the recorded one."""
    recorded = list(recorded_digests(model.json("manifest.json", "openwright-bundle/1")).items())
    told = [(stage.stage, stage.recorded) for stage in report.stages]
    require(told == recorded[: len(told)], "the stages and content digests are not those that the bundle records")
    for stage in report.stages:
        is_sound = (stage.verdict == "PASS") == (stage.rebuilt == stage.recorded)
        is_sound &= stage.verdict == "PASS" or stage is report.stages[-1]
        require(is_sound, f"{show(stage.stage)}: {stage.verdict} does not follow from its content digests")
    _require_platform(report.platform, "rebuild")


def _require_platform(platform: dict[str, Any] | None, name: str) -> None:
    if platform is not None:
        record = {key: value for key, value in platform.items() if key != "digest"}
        is_same = platform.get("digest") == tagged_digest("platform/1", record)
        require(is_same, f"{name}: the platform record does not have the digest that it names")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return show(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
