"""Keys, signatures and attestations as a forger makes them: from the public formats, with nothing of the project.

Written from docs/formats.md, the DSSE protocol and the layout of OpenSSF model signatures, with `cryptography` alone.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import forge
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
IGNORED = ("manifest.sig", "attestations")


class Key:
    """A key pair with its files."""

    def __init__(self, folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: str = "") -> None:
        self.key = ec.generate_private_key(curve or ec.SECP256R1())
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        self.private.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        self.pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.public.write_text(self.pem)
        self.digest = hashlib.sha256(self.pem.encode()).hexdigest()
        self.fingerprint = f"SHA256:{self.digest}"

    def sign(self, payload: bytes) -> str:
        """Signature over the pre-authentication encoding of a payload, in base64."""
        encoded = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        sizes = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        return base64.b64encode(self.key.sign(encoded, ec.ECDSA(sizes[self.key.curve.key_size]))).decode()


def envelope(statement: Any, key: Key, keyid: str) -> Any:
    """A DSSE envelope over a statement."""
    payload = json.dumps(statement, sort_keys=True).encode()
    signatures = [{"keyid": keyid, "sig": key.sign(payload)}]
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}


def statement_of(made: Any) -> Any:
    """The statement in an envelope."""
    return json.loads(base64.b64decode(made["payload"]))


def sign_model(model: Path, key: Key, ignored: Iterable[str] = IGNORED, hint: str | None = None) -> None:
    """Sign what lies in `model/` now, as OpenSSF model signing does in key mode."""
    left_out = tuple(ignored)
    paths = (path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    listed = sorted(path for path in paths if not path.startswith(left_out))
    digests = {path: hashlib.sha256((model / path).read_bytes()) for path in listed}
    root = hashlib.sha256(b"".join(digest.digest() for digest in digests.values())).hexdigest()
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": left_out}
    resources = [{"name": p, "algorithm": "sha256", "digest": d.hexdigest()} for p, d in digests.items()]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.digest if hint is None else hint}, "tlogEntries": []},
        "dsseEnvelope": envelope(statement, key, ""),
    }
    (model / "manifest.sig").unlink(missing_ok=True)
    (model / "manifest.sig").write_text(json.dumps(bundle))


def bundle_of(model: Path) -> Any:
    """Name and digests of a bundle, as a report names them."""
    root = forge.read(model / "manifest.json")
    return {
        "name": root["name"],
        "version": root["version"],
        "manifest_sha256": hashlib.sha256((model / "manifest.json").read_bytes()).hexdigest(),
        "dataset_manifest_sha256": root["dataset"]["manifest_sha256"],
        "content_digest": root["content_digest"],
    }


def report_of(bundle: Path, *segments: dict[str, Any]) -> Any:
    """The report of a replay that nobody made; segments are given by what differs from steps 1 to 2 of pretrain."""
    platform = {"machine": "x86_64", "cpu_model": "an 8080", "devices": []}
    platform["digest"] = forge.digest_of("platform/1", platform)
    segment = {
        "stage": "pretrain",
        "first_step": 1,
        "last_step": 2,
        "comparison": "bitwise",
        "verdict": "PASS",
        "detail": "bitwise: 2 steps, 3 ledger records equal byte for byte",
        "num_equal_steps": 2,
        "num_equal_records": 3,
        "layout": {"num_processes": 1, "shard_size": 1},
        "platform": platform,
        "recorded_platform": platform["digest"],
        "python": "3.11.7",
        "libraries": {"torch": "2.13.0"},
    }
    return {
        "format": "openwright-replay-report/1",
        "bundle": bundle_of(bundle / "model"),
        "choice": {"how": "fresh seed", "seed": "18446744073709551615", "num_segments": 1, "num_segments_in_all": 4},
        "date_utc": "2026-11-25T12:00:00Z",
        "replayed_code": "c" * 64,
        "comparing_code": "d" * 64,
        "segments": [{**segment, **changes} for changes in segments or ({},)],
    }


def attestation_of(bundle: Path, key: Key, *segments: dict[str, Any]) -> Any:
    """The statement of an attestation, not yet signed."""
    report = report_of(bundle, *segments)
    digests = {f"{part}/manifest.json": report["bundle"] for part in ("model", "dataset")}
    keys = {"model/manifest.json": "manifest_sha256", "dataset/manifest.json": "dataset_manifest_sha256"}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digests[name][keys[name]]}} for name in keys],
        "predicateType": "urn:openwright:replay-attestation:1",
        "predicate": {"public_key": key.pem, "report": report},
    }


def place(bundle: Path, made: Any, name: str = "aaaaaaaaaaaa-000000000001.json") -> Path:
    """Put an envelope, or any bytes, among the attestations of a bundle."""
    path = bundle / "model" / "attestations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made if isinstance(made, bytes) else json.dumps(made).encode())
    return path


def attest(bundle: Path, key: Key, *segments: dict[str, Any], name: str = "aaaaaaaaaaaa-000000000001.json") -> Path:
    """Attest a replay that nobody made."""
    return place(bundle, envelope(attestation_of(bundle, key, *segments), key, key.fingerprint), name)
