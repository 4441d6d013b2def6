"""How licence expressions are read: OSI-approved, open, or not open; unknown is never open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.components import licence_text
from release.licence_terms import is_copyleft, licence_ids, read_terms


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("Apache-2.0", "osi"),
        ("MIT AND BSD-3-Clause", "osi"),
        ("MIT OR CC-BY-NC-4.0", "osi"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "osi"),
        ("CC-BY-4.0", "open-terms"),
        ("MIT AND CC0-1.0", "open-terms"),
        ("CC-BY-NC-4.0", "not-open"),
        ("MIT AND CC-BY-NC-4.0", "not-open"),
        ("LicenseRef-house-terms", "not-open"),
        ("NOASSERTION", "not-open"),
        ("MIT AND", "not-open"),
        ("", "not-open"),
    ],
)
def test_terms(expression: str, verdict: str) -> None:
    assert read_terms(expression).verdict == verdict


@given(st.text(max_size=30))
def test_no_text_at_all_breaks_the_reading(text: str) -> None:
    assert read_terms(text).verdict in ("osi", "open-terms", "not-open")


def test_exceptions_are_identifiers_of_their_own() -> None:
    assert licence_ids("GPL-2.0-only WITH Classpath-exception-2.0") == ["Classpath-exception-2.0", "GPL-2.0-only"]


def test_copyleft_is_seen() -> None:
    assert is_copyleft("MIT AND CC-BY-SA-4.0")
    assert not is_copyleft("MIT AND PSF-2.0")


def test_gnu_texts_serve_both_identifiers() -> None:
    assert licence_text("GPL-3.0-only") == licence_text("GPL-3.0-or-later") is not None
    assert licence_text("No-Such-Licence") is None
