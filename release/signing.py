"""The signature of a bundle: OpenSSF model signing in key mode, offline, over all of `model/`.

`model/manifest.json` is one of the signed files and binds the dataset, so that the signature covers the whole bundle.
Not signed are the signature itself and `attestations/`, which others add later. The stock command `model_signing verify
key` of that project checks the same file.
"""

import base64
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from cryptography.exceptions import InvalidSignature
from model_signing import hashing, signing, verifying

from provenance.durability import sync_path
from provenance.errors import BundleError, ReleaseError
from release.keys import PrivateKey, PublicKey
from release.verify import (
    MAX_JSON_BYTES,
    CheckResult,
    Mismatch,
    Tree,
    Unverifiable,
    need,
    parse_json,
    require,
    show,
    verify_bundle,
)

SIGNATURE_NAME = "manifest.sig"
NOT_SIGNED = (SIGNATURE_NAME, "attestations")
_GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""What the stock `model_signing sign` leaves out besides the signature; no such file has a place in a bundle."""

_WHERE = f"model/{SIGNATURE_NAME}"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MALFORMED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, RecursionError)
_JUDGED_APART = ("identity", "signature", "attestations")
"""Checks of `verify.py` that need something from elsewhere: they do not say whether the bundle is whole."""


@dataclass(frozen=True)
class SignatureFile:
    """What a signature says of itself; nothing of it is verified by reading it.

    Attributes:
        hint: fingerprint of the key, or empty where the file names none.
        ignored: paths below `model/` that the signature leaves out.
        files: the files that it lists, with their digests.
    """

    hint: str
    ignored: frozenset[str]
    files: dict[str, str]


def require_whole(bundle: Path, results: Sequence[CheckResult], checks: Sequence[str] = ("bytes", "records")) -> None:
    """Refuse a bundle that does not verify: nobody should sign anything about files other than the listed ones.

    Args:
        results: those of `verify.py`.
        checks: groups of checks that must not fail.

    Raises:
        BundleError: for the first check that failed, or that could not be made of the bytes.
    """
    for result in results:
        is_open = result.check == "bytes" and result.verdict != "PASS" and result.name not in _JUDGED_APART
        if (result.verdict == "FAIL" and result.check in checks) or is_open:
            raise BundleError(
                f"{result.check}: {result.name} is {result.verdict}: {result.detail}",
                expected="a whole bundle, made without --dev, that verifies",
                where=f"{bundle}: {result.where}",
                next_command=f"openwright verify {quote(str(bundle))}",
            )


def sign_bundle(bundle: Path, key: PrivateKey) -> Path:
    """Sign a bundle that verifies; an older signature is replaced.

    Returns:
        Path of the signature.

    Raises:
        BundleError: when the bundle does not verify.
    """
    require_whole(bundle, verify_bundle(bundle, tokens="none"))
    model = bundle / "model"
    if (model / SIGNATURE_NAME).is_dir():
        raise BundleError("a directory", expected="a signature, or nothing", where=str(model / SIGNATURE_NAME))
    unsigned = hashing.Config().set_ignored_paths(paths=NOT_SIGNED, ignore_git_paths=False)
    # The library passes the password on to one that takes bytes, whatever its own annotation says.
    signer = signing.Config().use_elliptic_key_signer(private_key=key.path, password=key.password)
    with tempfile.TemporaryDirectory(prefix="openwright-sign-") as scratch:
        made = Path(scratch) / SIGNATURE_NAME
        try:
            signer.set_hashing_config(unsigned).sign(model, made)
        except ValueError as error:
            raise ReleaseError(f"model-signing refused: {error}", where=str(model)) from error
        partial = model / f"{SIGNATURE_NAME}.partial"
        partial.write_bytes(made.read_bytes())
    sync_path(partial)
    os.replace(partial, model / SIGNATURE_NAME)
    return model / SIGNATURE_NAME


def check_signature(model: Tree, key: PublicKey | None) -> CheckResult:
    """Check the signature of a bundle with a key that the user gave; without one nothing is verified.

    Args:
        model: files of `model/`.
        key: public key of the publisher, from a place that the user trusts.
    """
    try:
        if key is not None:
            require(SIGNATURE_NAME in model.files, f"there is no signature, expected one by {key.fingerprint}")
        signature = _read_signature(model)
        if key is None:
            named = (
                f"the key {signature.hint}, which you did not give" if signature.hint else "a key that it does not name"
            )
            told = f"it says that it was signed by {named}: check it with --key PUB.pem, from a place that you trust"
            return CheckResult("bytes", "signature", "UNVERIFIED", told, _WHERE)
        _verify(model, signature, key)
    except Mismatch as error:
        is_open = isinstance(error, Unverifiable) and key is None
        return CheckResult("bytes", "signature", "UNVERIFIED" if is_open else "FAIL", error.detail, _WHERE)
    told = f"signed by the key {key.fingerprint} that you gave ({key.name}): {len(signature.files):,} files of model/,"
    return CheckResult("bytes", "signature", "PASS", f"{told} and by its manifest all of dataset/", _WHERE)


def _read_signature(model: Tree) -> SignatureFile:
    with model.open(SIGNATURE_NAME) as file:
        values = parse_json(file.read(MAX_JSON_BYTES + 1), _WHERE)
    try:
        material, envelope = values["verificationMaterial"], values["dsseEnvelope"]
        require(isinstance(values["mediaType"], str), "malformed (its media type is no text)")
        by_key = values["mediaType"] == _BUNDLE_TYPE and "publicKey" in material
        need(by_key, "a signature of another kind: a certificate or another version of its format")
        statement = parse_json(base64.b64decode(envelope["payload"], validate=True), _WHERE)
        need(statement["predicateType"] == _PREDICATE_TYPE, f"a statement of type {show(statement['predicateType'])}")
        predicate = statement["predicate"]
        ignored = frozenset(map(str, predicate["serialization"].get("ignore_paths", ())))
        hint = material["publicKey"].get("hint")
        files = {str(entry["name"]): str(entry["digest"]) for entry in predicate["resources"]}
        return SignatureFile(f"SHA256:{show(hint)}" if hint else "", ignored, files)
    except _MALFORMED as error:
        raise Mismatch(f"malformed ({type(error).__name__}: {show(str(error))})") from None


def _verify(model: Tree, signature: SignatureFile, key: PublicKey) -> None:
    """Raise a Mismatch unless the key signed exactly the files that are here."""
    is_same = signature.hint in ("", key.fingerprint)
    require(is_same, f"it says that it was signed by {signature.hint}, not by the key {key.fingerprint} that you gave")
    left_out = sorted(signature.ignored - {*NOT_SIGNED, *_GIT_PATHS})
    require(not left_out, f"it leaves out {show(', '.join(left_out))}, which belongs to the bundle")
    with tempfile.TemporaryDirectory(prefix="openwright-verify-") as scratch:
        public = Path(scratch) / "key.pem"
        public.write_text(key.pem)
        try:
            with redirect_stdout(sys.stderr):  # where the library prints its warnings
                verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
                verifier.verify(model.root, model.root / SIGNATURE_NAME)
        except InvalidSignature:
            raise Mismatch(f"the key {key.fingerprint} that you gave did not sign what it lists") from None
        except _MALFORMED as error:
            told = _first_difference(model, signature.files) or show(str(error)) or type(error).__name__
            raise Mismatch(told) from None


def _first_difference(model: Tree, signed: dict[str, str]) -> str:
    """Name a file on which signature and bundle differ, in plainer words than the library's."""
    apart = (SIGNATURE_NAME, "attestations/")
    here = {path for path in model.files if not path.startswith(apart)}
    for path in sorted(here ^ signed.keys()):
        return (
            f"{show(path)} is here and was not signed" if path in here else f"{show(path)} was signed and is not here"
        )
    changed = (path for path in sorted(signed) if model.sha256(path) != signed[path])
    return next((f"{show(path)} is not the file that was signed" for path in changed), "")
