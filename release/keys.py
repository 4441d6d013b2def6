"""Keys of publishers and attesters: elliptic curve keys in PEM files as `openssl` makes them, and their fingerprints.

A fingerprint is the sha256 of the public key's PEM text: what `sha256sum` says of the file that `openssl pkey -pubout`
writes, and what OpenSSF model signing puts into a signature as the hint of its key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from provenance.digests import sha256_bytes
from provenance.errors import ConfigError

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Curves that OpenSSF model signing takes: P-256, P-384 and P-521."""

NEW_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-256-cbc -out key.pem"
PUBLIC_HALF = "openssl pkey -in key.pem -pubout -out key.pub.pem"
_MAX_KEY_BYTES = 64 * 2**10
_WANTED = "an elliptic curve key (P-256, P-384 or P-521) in PEM"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        name: what people call it: the name of its file.
        pem: its PEM text.
    """

    name: str
    pem: str
    key: EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and the sha256 of the PEM text."""
        return f"SHA256:{sha256_bytes(self.pem.encode())}"


@dataclass(frozen=True)
class PrivateKey:
    """A private key that a file holds, with the password that opened it (None where it is not encrypted)."""

    path: Path
    password: bytes | None
    key: EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return _public(self.path.name, self.key.public_key())


def load_private_key(path: Path, ask_password: Callable[[], str]) -> PrivateKey:
    """Read a private key.

    Args:
        ask_password: called where the key is encrypted, and only there.

    Raises:
        ConfigError: for a file that is no such key, or another password.
    """
    data, password = _read(path), None
    if b"PRIVATE KEY" not in data and b"PUBLIC KEY" in data:
        raise ConfigError("a public key", expected="the private key that belongs to it", where=str(path))
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # what the library raises for an encrypted key without a password
            password = ask_password().encode()
            key = load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if password is not None:
            following = "the same command with its password"
            told = "the password does not open this key"
            raise ConfigError(told, expected="its password", where=str(path), next_command=following) from None
        told, expected = "no private key that can be read", f"{_WANTED}, private"
        raise ConfigError(told, expected=expected, where=str(path), next_command=NEW_KEY) from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise ConfigError("a key of another kind", expected=_WANTED, where=str(path), next_command=NEW_KEY)
    return PrivateKey(path, password, key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        ConfigError: for a file that is no such key, a private key above all.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise ConfigError(
            "a private key", expected="the public key that belongs to it", where=str(path), next_command=PUBLIC_HALF
        )
    try:
        return parse_public_key(data, path.name)
    except ValueError as error:
        raise ConfigError(
            str(error), expected=f"{_WANTED}, public", where=str(path), next_command=PUBLIC_HALF
        ) from None


def parse_public_key(data: bytes, name: str = "") -> PublicKey:
    """Read a public key from PEM text that may come from a stranger.

    Raises:
        ValueError: for anything that is no elliptic curve key of the known curves.
    """
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no public key that can be read") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise ValueError("a key of another kind")
    return _public(name, key)


def _public(name: str, key: EllipticCurvePublicKey) -> PublicKey:
    return PublicKey(name, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the key ({error.strerror})", expected=_WANTED, where=str(path)) from None
