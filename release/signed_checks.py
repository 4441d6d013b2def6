"""Checks of what is signed in a bundle, with the keys that the user gave: its signature, and attestations of others.

`verify.py` says UNVERIFIED where these results stand: it has no cryptography of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provenance.errors import OpenwrightError
from release.attestations import check_attestations
from release.attested import CHECK, FOLDER, PLACE, note
from release.keys import PublicKey, load_public_key
from release.replay_report import bundle_identity
from release.signing import SIGNATURE_NAME, check_signature
from release.verify import CheckResult, Tree

_OPEN = ("signature", "attestations")
_OF_SIGNED_FILES = ("tree", "manifest", "model files")


@dataclass(frozen=True)
class GivenKeys:
    """Public keys from places that the user trusts: the publisher's, and those of attesters."""

    publisher: PublicKey | None
    attesters: tuple[PublicKey, ...]


def load_keys(publisher: Path | None, attesters: Sequence[Path]) -> GivenKeys:
    """Read the public keys that a command was given.

    Raises:
        ConfigError: for files that are no public keys.
    """
    key = load_public_key(publisher) if publisher is not None else None
    return GivenKeys(key, tuple(map(load_public_key, attesters)))


def check_signed(bundle: Path, results: Sequence[CheckResult], given: GivenKeys) -> list[CheckResult]:
    """Put checked results in the places of those that `verify.py` left open.

    Args:
        results: those of `verify.py`.
    """
    checked: list[CheckResult] = []
    altered = next((r for r in results if r.name in _OF_SIGNED_FILES and r.verdict == "FAIL"), None)
    for result in results:
        if result.name == "identity":
            model = Tree(bundle / "model" if (bundle / "model").is_dir() else bundle, "model")
            checked += _identity_and_signature(result, model, given.publisher, altered)
            checked += _attestations(model, given)
        elif result.name not in _OPEN:
            checked.append(result)
    return checked


def _identity_and_signature(
    identity: CheckResult, model: Tree, key: PublicKey | None, altered: CheckResult | None
) -> list[CheckResult]:
    """A signature by the given key says whose bundle it is, as an expected manifest digest does."""
    if SIGNATURE_NAME not in model.files and key is None:
        return [identity]
    if SIGNATURE_NAME in model.files and key is not None and altered is not None:
        # It covers the manifest and the files that this lists: both cannot be right. Nothing of any size is hashed.
        told = f"not of these files: {altered.name}: {altered.detail}"
        return [identity, CheckResult("bytes", "signature", "FAIL", told, altered.where)]
    signature = check_signature(model, key)
    if key is not None and signature.verdict == "PASS" and identity.verdict == "UNVERIFIED":
        told = f"manifest digest {model.sha256('manifest.json')}, signed by the key {key.fingerprint} that you gave"
        identity = replace(identity, verdict="PASS", detail=told)
    return [identity, signature]


def _attestations(model: Tree, given: GivenKeys) -> list[CheckResult]:
    """Results of all attestations; the publisher's key counts as known, and says that it is the publisher's.

    Whoever gave keys of attesters asked for attestations by them: without one that is no note, but a check that is
    UNVERIFIED.
    """
    publisher, known = given.publisher, [*given.attesters]
    if publisher is not None:
        known.append(replace(publisher, name=f"{publisher.name}, the key of the publisher"))
    found: list[CheckResult] = []
    if model.below(f"{FOLDER}/"):
        try:
            found = check_attestations(model, bundle_identity(model.root), known)
        except (OpenwrightError, LookupError, TypeError, ValueError):
            found = [note(CHECK, "not checked: the root manifest could not be read")]
    if given.attesters and not any(result.check == CHECK for result in found):
        told = found[0].detail if found else "there are none in this bundle"
        return [CheckResult(CHECK, CHECK, "UNVERIFIED", f"none by a key that you gave: {told}", PLACE), *found[1:]]
    return found
