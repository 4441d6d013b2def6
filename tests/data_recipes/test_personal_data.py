"""Personal data: what is found, what is left alone, and how it is taken out of a text."""

import hashlib
from itertools import pairwise

import pytest
from corpus_fixtures import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.personal_data import PLACEHOLDERS, find_personal_data, redact
from data_recipes.rule_settings import KINDS, PersonalDataRules
from data_recipes.text_kernels import segment

# In parts, so that no scanner takes them for real.
TOKEN = "ghp_" + "a1B2c3D4e5" * 4
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq98\nabcd==\n-----END RSA PRIVATE KEY-----"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


def found(text):
    return [(span.kind, text[span.start : span.end]) for span in find_personal_data(text, segment(text))]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("email", "jane.doe+list@mail.bbk.ac.uk"),
        ("phone", "+1 650 253 0000"),
        ("phone", "+49 (0)89 1234567"),
        ("phone", "(650) 253-0000"),
        ("phone", "650-253-0000"),
        ("ip", "8.8.8.8"),
        ("ip", "2001:4860:4860::8888"),
        ("secret", TOKEN),
        ("secret", "AKIA" + "Q7XM2ABCD5KLZ3WP"),
        ("secret", JWT),
        ("secret", KEY),
    ],
)
@pytest.mark.parametrize("frame", ["{}", "say: {}, then", "<{}>", "one\n\n  {}\nlast"])
def test_personal_data_is_found_whatever_stands_around_it(kind, data, frame):
    assert found(frame.format(data)) == [(kind, data)]


@pytest.mark.parametrize(
    "text",
    [
        "someone@example.com and admin@mail.example.org, root@localhost",
        "192.168.0.1 10.0.0.1 127.0.0.1 ::1 fe80::1 203.0.113.7",
        "version v1.2.3.4, 1.2.3.4.5 and 300.1.1.1",
        "ISBN 978-3-16-148410-0, pi is 3.14159265358979, id 1234567890",
        "2026-11-25 10:11:12, 2026-11-26 13:14:15",
        "AKIA" + "IOSFODNN7EXAMPLE is the key of the manual",
        ":class:`~module.Class`:: std::vector<int>::iterator",
        "-----BEGIN " + "PUBLIC KEY-----\nMIIEpAIBAAKCAQEA7bq98\n-----END PUBLIC KEY-----",
        "@decorator a @ b x@y",
        prose(1),
    ],
)
def test_what_is_no_personal_data_is_left_alone(text):
    assert found(text) == []


def test_redaction_keeps_places_and_the_digest_of_the_text_before():
    text = f"Write to jane@mail.org or call (650) 253-0000.\nKey: {TOKEN}\n"
    spans = find_personal_data(text, segment(text))
    redaction = redact(text, spans)
    assert redaction.text == "Write to [EMAIL] or call [PHONE].\nKey: [SECRET]\n"
    assert redaction.sha256_before == hashlib.sha256(text.encode()).hexdigest()
    assert [text[span.start : span.end] for span in redaction.spans] == ["jane@mail.org", "(650) 253-0000", TOKEN]
    assert redact(text, spans, ["email"]).text == text.replace("jane@mail.org", "[EMAIL]")
    assert found(redaction.text) == []


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a@b.org", "8.8.8.8", "+1 650 253 0000", TOKEN, KEY, "x", "\n", " ", ",", "@", ".", "1"]))
)
def test_spans_are_in_order_and_apart_and_nothing_but_them_changes(pieces):
    text = "".join(pieces)
    spans = find_personal_data(text, segment(text))
    assert all(span.start < span.end <= len(text) for span in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    redacted = redact(text, spans).text
    for span in reversed(spans):
        text = text[: span.start] + PLACEHOLDERS[span.kind] + text[span.end :]
    assert redacted == text


@pytest.mark.parametrize(
    "line", ["@" * 20000, "a" * 50000 + "@", "1." * 20000, ":" * 20000, "+1 " * 20000, "eyJ" * 9000 + "1"]
)
def test_long_lines_take_no_long_time(line):
    find_personal_data(line, segment(line))  # within the test's time limit: no pattern goes back without end


def test_by_default_all_kinds_are_recorded_and_none_is_redacted():
    assert PersonalDataRules().action == "record"
    assert PersonalDataRules().kinds == list(KINDS)
