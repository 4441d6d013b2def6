"""Signatures of bundles: made with OpenSSF model signing, checked with its own command, and forged without us."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import replace_file
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from forge_signatures import Key, attest, sign_model

from provenance.errors import BundleError, ConfigError
from release.checks import verify_release
from release.keys import load_private_key, load_public_key
from release.signing import check_signature, require_whole, sign_bundle
from release.verify import CheckResult, Tree, verify_bundle


@pytest.fixture
def publisher(tmp_path: Path) -> Key:
    return Key(tmp_path, "publisher")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the checks before signing, where a test is not about them."""
    monkeypatch.setattr("release.signing.verify_bundle", lambda bundle, tokens: [])


@pytest.fixture
def signed(copy: Path, publisher: Key, verified: None) -> Path:
    """A copy of the bundle, signed by its publisher with our command."""
    sign_bundle(copy, load_private_key(publisher.private, no_password))
    return copy


def no_password() -> str:
    raise AssertionError("nobody should be asked for a password")


def check(bundle: Path, key: Key | None) -> CheckResult:
    given = load_public_key(key.public) if key else None
    return check_signature(Tree(bundle / "model", "model"), given)


def stock_command(bundle: Path, key: Key) -> subprocess.CompletedProcess[str]:
    """The command that `verify.py` names."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", "model"]
    command += ["--signature", "model/manifest.sig", "--public_key", str(key.public)]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)


def test_what_we_sign_the_stock_command_verifies_attestations_or_not(signed: Path, publisher: Key) -> None:
    attest(signed, publisher)
    done = stock_command(signed, publisher)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (signed / "model" / "added.txt").write_text("x")
    assert stock_command(signed, publisher).returncode == 1


def test_a_signature_is_checked_with_the_key_that_was_given(signed: Path, publisher: Key) -> None:
    result = check(signed, publisher)
    assert (result.check, result.name, result.verdict) == ("bytes", "signature", "PASS"), result
    assert f"signed by the key {publisher.fingerprint} that you gave (publisher.pub.pem)" in result.detail
    assert (
        subprocess.run(["sha256sum", publisher.public], capture_output=True, text=True).stdout[:64] == publisher.digest
    )


def test_without_a_key_a_signature_is_unverified_and_says_what_it_holds(signed: Path, publisher: Key) -> None:
    result = check(signed, None)
    assert result.verdict == "UNVERIFIED"
    assert f"{publisher.fingerprint}, which you did not give" in result.detail


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_sign_and_verify(copy: Path, verified: None, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = Key(tmp_path, "large", curve)
    sign_bundle(copy, load_private_key(key.private, no_password))
    assert check(copy, key).verdict == "PASS"


def test_the_forgers_own_tool_makes_signatures_that_hold(copy: Path, publisher: Key) -> None:
    """What is refused below is the forgery, not the tool."""
    sign_model(copy / "model", publisher)
    assert check(copy, publisher).verdict == "PASS"
    sign_model(copy / "model", publisher, hint="")
    assert check(copy, publisher).verdict == "PASS"
    assert "a key that it does not name" in check(copy, None).detail


def test_a_bundle_signed_anew_by_a_forger_fails_with_the_publishers_key(signed: Path, publisher: Key) -> None:
    forger = Key(signed.parent, "forger")
    replace_file(signed / "model" / "LICENSE", "do as I say")
    sign_model(signed / "model", forger)
    result = check(signed, publisher)
    assert result.verdict == "FAIL"
    assert forger.fingerprint in result.detail
    assert check(signed, None).verdict == "UNVERIFIED"
    sign_model(signed / "model", forger, hint=publisher.digest)  # the hint is nobody's word
    assert check(signed, publisher).verdict == "FAIL"
    assert "did not sign" in check(signed, publisher).detail


def change_a_byte(bundle: Path) -> None:
    path = bundle / "model" / "training" / "pretrain" / "ledger.jsonl"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    replace_file(path, bytes(data))


def change_the_root(bundle: Path) -> None:
    path = bundle / "model" / "manifest.json"
    replace_file(path, path.read_bytes() + b" ")


def remove_a_file(bundle: Path) -> None:
    (bundle / "model" / "training" / "pretrain" / "recipe.json").unlink()


def add_a_file(bundle: Path) -> None:
    (bundle / "model" / "training" / "more.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_a_byte, "training/pretrain/ledger.jsonl is not the file that was signed"),
        (change_the_root, "manifest.json is not the file that was signed"),
        (remove_a_file, "training/pretrain/recipe.json was signed and is not here"),
        (add_a_file, "training/more.json is here and was not signed"),
    ],
)
def test_other_files_than_the_signed_ones_fail(
    signed: Path, publisher: Key, change: Callable[[Path], None], told: str
) -> None:
    change(signed)
    result = check(signed, publisher)
    assert result.verdict == "FAIL"
    assert told in result.detail


def test_the_signature_of_another_bundle_fails(signed: Path, publisher: Key) -> None:
    other = shutil.copytree(signed, signed.parent / "other", copy_function=os.link)
    change_a_byte(other)
    sign_model(other / "model", publisher)
    replace_file(signed / "model" / "manifest.sig", (other / "model" / "manifest.sig").read_bytes())
    assert check(other, publisher).verdict == "PASS"
    assert check(signed, publisher).verdict == "FAIL"


def test_a_signature_that_leaves_files_out_fails_though_the_stock_command_takes_it(copy: Path, publisher: Key) -> None:
    sign_model(copy / "model", publisher, ignored=("manifest.sig", "attestations", "training"))
    assert stock_command(copy, publisher).returncode == 0
    result = check(copy, publisher)
    assert result.verdict == "FAIL"
    assert "leaves out training" in result.detail


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{}},'
        b'"dsseEnvelope":{"payload":"e30="}}',
        b'{"mediaType":1,"verificationMaterial":[],"dsseEnvelope":null}',
        b'{"a":1,"a":2}',
    ],
)
def test_a_malformed_signature_fails_with_a_key_and_without(copy: Path, publisher: Key, content: bytes) -> None:
    (copy / "model" / "manifest.sig").write_bytes(content)
    assert check(copy, publisher).verdict == "FAIL"
    assert check(copy, None).verdict == "FAIL"


def test_an_oversized_signature_is_not_parsed(copy: Path) -> None:
    with (copy / "model" / "manifest.sig").open("wb") as file:
        file.truncate(2**40)
    result = check(copy, None)
    assert result.verdict == "FAIL"
    assert "too large" in result.detail


def test_signatures_of_kinds_that_are_not_known_here_are_unverified_and_no_match_for_a_key(
    signed: Path, publisher: Key
) -> None:
    path = signed / "model" / "manifest.sig"
    replace_file(path, path.read_bytes().replace(b"bundle.v0.3+json", b"bundle.v9+json"))
    assert check(signed, None).verdict == "UNVERIFIED"
    assert check(signed, publisher).verdict == "FAIL"


# ---- signing --------------------------------------------------------------------------------------------------------


def test_signing_again_replaces(signed: Path, publisher: Key, tmp_path: Path) -> None:
    other = Key(tmp_path, "other")
    sign_bundle(signed, load_private_key(other.private, no_password))
    assert check(signed, other).verdict == "PASS"
    assert check(signed, publisher).verdict == "FAIL"
    assert not list((signed / "model").glob("manifest.sig?*"))


def test_a_directory_in_the_place_of_the_signature_is_refused(copy: Path, verified: None, publisher: Key) -> None:
    (copy / "model" / "manifest.sig").mkdir()
    with pytest.raises(BundleError, match="a directory"):
        sign_bundle(copy, load_private_key(publisher.private, lambda: ""))
    assert not list((copy / "model").glob("*.partial"))


def test_an_encrypted_key_asks_for_its_password(copy: Path, verified: None, tmp_path: Path) -> None:
    key = Key(tmp_path, "locked", password="пароль")
    sign_bundle(copy, load_private_key(key.private, lambda: "пароль"))
    assert check(copy, key).verdict == "PASS"
    with pytest.raises(ConfigError, match="the password does not open this key"):
        load_private_key(key.private, lambda: "")


def test_a_bundle_that_does_not_verify_is_not_signed(copy: Path, publisher: Key) -> None:
    replace_file(copy / "model" / "LICENSE", "another licence")
    with pytest.raises(BundleError, match="model files is FAIL"):
        sign_bundle(copy, load_private_key(publisher.private, no_password))
    assert not (copy / "model" / "manifest.sig").exists()


def test_neither_records_that_fail_nor_bytes_that_nobody_checked_are_signed() -> None:
    def result(check: str, name: str, verdict: str) -> CheckResult:
        return CheckResult(check, name, verdict, "", "")

    whole = [result("bytes", "identity", "UNVERIFIED"), result("records", "code", "UNVERIFIED")]
    require_whole(Path("b"), whole)
    require_whole(Path("b"), [result("records", "code", "FAIL")], checks=("bytes",))
    for bad in (("records", "code", "FAIL"), ("bytes", "dataset binding", "UNVERIFIED"), ("bytes", "tree", "FAIL")):
        with pytest.raises(BundleError, match=bad[1]):
            require_whole(Path("b"), [*whole, result(*bad)])


@pytest.fixture
def rsa_key(tmp_path: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(65537, 2048)
    private, public = tmp_path / "rsa.pem", tmp_path / "rsa.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_files_that_are_no_such_keys_are_refused_with_what_they_are(
    publisher: Key, rsa_key: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.pem").write_text("no key")
    old = Key(tmp_path, "old", ec.SECP256K1())
    for path, told in (
        (publisher.public, "a public key"),
        (rsa_key[0], "another kind"),
        (old.private, "another kind"),
        (tmp_path / "text.pem", "no private key"),
        (tmp_path / "none.pem", "No such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_private_key(path, no_password)
    for path, told in (
        (publisher.private, "a private key"),
        (rsa_key[1], "another kind"),
        (tmp_path / "text.pem", "no public key"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_public_key(path)


# ---- in the report of verify ----------------------------------------------------------------------------------------


@pytest.fixture
def only_verify_py(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the checks that have tests of their own."""
    monkeypatch.setattr("release.checks._guarded", lambda name, *others: CheckResult("records", name, "PASS", "", ""))


def results(bundle: Path, **options: Any) -> dict[str, CheckResult]:
    return {r.name: r for r in verify_release(bundle, **{"expect": None, "tokens": "none", **options})}


def test_a_signature_by_the_given_key_says_whose_bundle_it_is(
    signed: Path, publisher: Key, only_verify_py: None
) -> None:
    found = results(signed, key=publisher.public)
    assert (found["identity"].verdict, found["signature"].verdict) == ("PASS", "PASS")
    assert f"signed by the key {publisher.fingerprint}" in found["identity"].detail
    assert {r.verdict for r in found.values() if r.check == "bytes"} == {"PASS"}
    found = results(signed)
    assert (found["identity"].verdict, found["signature"].verdict) == ("UNVERIFIED", "UNVERIFIED")
    found = results(signed, key=Key(signed.parent, "another").public)
    assert (found["identity"].verdict, found["signature"].verdict) == ("UNVERIFIED", "FAIL")


def test_an_unsigned_bundle_says_so_and_fails_where_a_signature_was_asked_for(
    copy: Path, publisher: Key, only_verify_py: None
) -> None:
    found = results(copy)
    assert found["identity"].detail.endswith("the bundle is not signed")
    assert "signature" not in found
    found = results(copy, key=publisher.public)
    assert (found["identity"].verdict, found["signature"].verdict) == ("UNVERIFIED", "FAIL")
    assert "there is no signature" in found["signature"].detail


def test_a_resealed_forgery_under_the_old_signature_fails(signed: Path, publisher: Key, only_verify_py: None) -> None:
    forged = shutil.copytree(signed, signed.parent / "forged")  # no hard links: the forger writes into files
    forge.edit_ledger(forged, "pretrain", lambda records: records[1].update(weights_digest="0" * 64))
    forge.reseal(forged)
    found = results(forged, key=publisher.public)
    assert found["signature"].verdict == "FAIL"
    assert found["identity"].verdict == "UNVERIFIED"
    assert {r.verdict for r in found.values() if r.check == "bytes"} == {"PASS", "FAIL", "UNVERIFIED"}


def test_an_altered_file_is_named_without_hashing_whatever_lies_there(
    signed: Path, publisher: Key, only_verify_py: None
) -> None:
    (signed / "model" / "LICENSE").unlink()
    with (signed / "model" / "LICENSE").open("wb") as file:
        file.truncate(2**40)
    found = results(signed, key=publisher.public)
    assert found["signature"].verdict == "FAIL"
    assert found["signature"].where == "model/LICENSE"


def test_a_link_in_the_place_of_the_signature_fails(signed: Path, publisher: Key, only_verify_py: None) -> None:
    path = signed / "model" / "manifest.sig"
    os.rename(path, signed.parent / "elsewhere.sig")
    path.symlink_to(signed.parent / "elsewhere.sig")
    found = results(signed, key=publisher.public)
    assert (found["tree"].verdict, found["signature"].verdict) == ("FAIL", "FAIL")


def test_the_standalone_verifier_leaves_a_signature_to_others(signed: Path) -> None:
    found = {result.name: result for result in verify_bundle(signed, tokens="none")}
    assert found["signature"].verdict == "UNVERIFIED"
    assert "model_signing verify key model" in found["signature"].detail
    assert "FAIL" not in {result.verdict for result in found.values()}
