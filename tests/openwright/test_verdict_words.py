"""The sentences of `verify` say what the checks say, and never more."""

from types import SimpleNamespace

import pytest

from openwright.verdict_words import in_words

NAMES = {
    "bytes": ("tree", "identity", "model files", "content digest"),
    "records": ("journals", "documents", "pretrain order", "texts", "openness verdict", "generated documents"),
}


def results(**verdicts):
    """A result for every check; PASS but where a verdict is given by the name, `_` for a space."""
    return [
        SimpleNamespace(check=check, name=name, verdict=verdicts.pop(name.replace(" ", "_"), "PASS"), detail="why")
        for check, names in NAMES.items()
        for name in names
    ] + [SimpleNamespace(check="bytes", name=name, verdict=verdict, detail="why") for name, verdict in verdicts.items()]


def test_an_honest_bundle_in_words():
    lines = in_words(results())
    assert lines[1].endswith("the bundle whose digest you gave")
    assert "every file is the one" in lines[2]
    assert not [line for line in lines if "WRONG" in line or "not fully checked" in line]
    assert any("not shown" in line for line in lines), "what no check shows is said all the same"


@pytest.mark.parametrize(
    ("verdicts", "line", "words"),
    [
        ({"identity": "UNVERIFIED"}, 1, "nobody vouches for it"),
        ({"identity": "FAIL"}, 1, "NOT the bundle"),
        ({"signature": "FAIL"}, 1, "NOT what the holder"),
        ({"signature": "PASS"}, 1, "signed by the holder"),
        ({"signature": "UNVERIFIED", "identity": "UNVERIFIED"}, 1, "nobody vouches for it"),
        ({"model_files": "FAIL"}, 2, "WRONG: model files: why"),
        ({"repository": "FAIL"}, 2, "WRONG: repository: why"),
        ({"pretrain_order": "FAIL", "journals": "UNVERIFIED"}, 3, "WRONG: pretrain order: why"),
        ({"journals": "UNVERIFIED", "pretrain_order": "UNVERIFIED"}, 3, "not fully checked: journals: why (and 1 more"),
        ({"texts": "UNVERIFIED"}, 4, "not fully checked: texts: why"),
        ({"openness_verdict": "FAIL"}, 5, "WRONG: openness verdict: why"),
    ],
)
def test_what_is_wrong_or_open_is_said_in_its_place(verdicts, line, words):
    lines = in_words(results(**verdicts))
    assert words in lines[line]
    honest = in_words(results())
    assert [number for number in range(len(honest)) if lines[number] != honest[number]] == [line]


def test_what_was_not_checked_is_not_told_as_holding():
    lines = in_words([])
    assert lines[1].endswith("nobody can say: there is no manifest here to compare")
    assert all(line.endswith("not checked") for line in lines[2:6])
