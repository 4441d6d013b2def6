"""Whatever stands in the place of a signature, an attestation, a key or a lock: a verdict or the clear error."""

import base64
import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forge_signatures import Key, attestation_of, envelope, place, sign_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_rebuild_attestations import rebuilt, signed
from test_verify_fuzz import mutate, mutated

from provenance.errors import BundleError, ConfigError
from release.attestations import attest, check_attestations
from release.isolated import plan_environment
from release.keys import load_private_key, load_public_key, parse_public_key
from release.replay_report import bundle_identity
from release.signing import check_signature
from release.verify import Tree

few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
RANDOMS = st.randoms(use_true_random=False)


@pytest.fixture
def small(copy_of: Callable[[str], Path]) -> Path:
    bundle = copy_of("plain")
    shutil.rmtree(bundle / "model" / "code")
    return bundle


@pytest.fixture
def alice(tmp_path: Path) -> Key:
    return Key(tmp_path, "alice")


@few
@given(RANDOMS, st.sampled_from(("envelope", "replay", "rebuild")))
def test_a_mutated_attestation_is_judged_or_counts_for_nothing(
    small: Path, alice: Key, draw: random.Random, what: str
) -> None:
    """Of the statements every mutant is signed: what is refused is what it says."""
    made = (
        signed(small, alice, rebuilt(small))
        if what == "rebuild"
        else envelope(attestation_of(small, alice), alice, alice.fingerprint)
    )
    if what == "envelope":
        place(small, mutated(json.dumps(made).encode(), draw))
    else:
        statement = mutate(json.loads(base64.b64decode(made["payload"])), draw)
        with contextlib.suppress(ValueError):  # a text that has no bytes cannot be signed either
            place(small, envelope(statement, alice, alice.fingerprint))
    known = [load_public_key(alice.public)]
    found = check_attestations(Tree(small / "model", "model"), bundle_identity(small / "model"), known)
    assert {result.check for result in found} <= {"note", "attestations"}
    assert all(result.detail.isprintable() for result in found)
    assert all(result.verdict == "UNVERIFIED" for result in found if result.check == "note")


@few
@given(RANDOMS)
def test_a_mutated_signature_is_never_a_pass_of_other_files(small: Path, alice: Key, draw: random.Random) -> None:
    sign_model(small / "model", alice)
    path = small / "model" / "manifest.sig"
    path.write_bytes(mutated(path.read_bytes(), draw))
    given = load_public_key(alice.public)
    for key in (given, None):
        result = check_signature(Tree(small / "model", "model"), key)
        assert result.verdict in (("PASS", "FAIL") if key else ("UNVERIFIED", "FAIL"))
        assert result.detail.isprintable()
    licence = small / "model" / "LICENSE"
    before = licence.read_bytes()
    licence.write_text("another")
    result = check_signature(Tree(small / "model", "model"), given)
    licence.write_bytes(before)
    assert result.verdict == "FAIL"


@few
@given(RANDOMS)
def test_a_mutated_report_is_signed_or_refused(small: Path, alice: Key, draw: random.Random) -> None:
    path = small.parent / "report.json"
    path.write_bytes(mutated(json.dumps({"rebuild_report": rebuilt(small)}).encode(), draw))
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(BundleError, ConfigError):
        patch.setattr("release.attestations.verify_bundle", lambda bundle, tokens: [])
        attest(small, load_private_key(alice.private, lambda: ""), path)


@given(st.binary(max_size=200), st.integers(0, 170), st.integers(0, 255))
def test_any_bytes_are_a_public_key_or_none(data: bytes, place: int, byte: int) -> None:
    with contextlib.suppress(ValueError):
        parse_public_key(b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(data) + b"\n-----END PUBLIC KEY-----\n")
    pem = bytearray(PEM.encode())
    pem[place % len(pem)] = byte
    for text in (bytes(pem), data):
        with contextlib.suppress(ValueError):
            assert parse_public_key(text).fingerprint.startswith("SHA256:")


PEM = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: f"torch=={text}".encode("utf-8", "replace")))
def test_any_bytes_are_a_lock_or_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    code = tmp_path_factory.getbasetemp() / "locks"
    (code / "requirements").mkdir(parents=True, exist_ok=True)
    for name in ("cpu.lock", "torch-cpu.lock"):
        (code / "requirements" / name).write_bytes(data)
    with contextlib.suppress(BundleError):
        plan_environment(code, code / "venv")
