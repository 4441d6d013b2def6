"""Credentials are found in whatever block of a file they lie, with their line."""

from pathlib import Path

import pytest

from release import secret_scan
from release.secret_scan import find_secrets

SECRETS = {
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "an AWS access key": "AK" + "IA" + "A" * 16,
    "a GitHub token": "gh" + "s_" + "a" * 36,
    "a Hugging Face token": "h" + "f_" + "a" * 30,
    "a Slack token": "xo" + "xb-" + "1" * 12,
    "a Google API key": "AI" + "za" + "b" * 35,
    "a PyPI token": "py" + "pi-" + "c" * 50,
    "a JSON web token": "ey" + "J" + "d" * 16 + ".ey" + "J" + "e" * 16 + "." + "f" * 16,
    "a password in an address": "https:/" + "/me:secret@example.org",
}


@pytest.mark.parametrize("block_bytes", [16, 2**20])
@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_is_found_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, block_bytes: int
) -> None:
    monkeypatch.setattr(secret_scan, "_BLOCK_BYTES", block_bytes)
    lines = ["nothing here", "ж" * 9, "", f"key = {SECRETS[kind]}", "the end"]
    (tmp_path / "a.md").write_text("\n".join(lines))
    assert find_secrets(tmp_path) == [f"a.md:4: looks like {kind}"]
    (tmp_path / "a.md").write_text("\n".join(lines).replace("key = ", "").replace(SECRETS[kind], "none"))
    assert find_secrets(tmp_path) == []


def test_every_kind_has_a_case() -> None:
    assert set(SECRETS) == {kind for kind, *_ in secret_scan._PATTERNS}
