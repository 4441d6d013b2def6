"""The licence policy: SPDX expressions against an allow-list."""

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.document import UNRESOLVED
from data_recipes.policy import LicenceDecision, LicencePolicy, credit_lines, decide_licence, normalise_spdx

NAMES = ["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-2.0-only WITH Classpath-exception-2.0"]
ALLOW = LicencePolicy(allow=NAMES)


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("MIT", "MIT"),
        ("GPL-3.0-only OR MIT", "MIT"),
        ("Apache-2.0 OR MIT", "MIT"),  # the one that stands first in the allow-list
        ("MIT AND BSD-3-Clause", "MIT AND BSD-3-Clause"),
        ("(GPL-3.0-only OR Apache-2.0) AND MIT", "Apache-2.0 AND MIT"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
    ],
)
def test_allowed_expressions_name_what_was_chosen(expression, chosen):
    assert decide_licence(expression, ALLOW).chosen == chosen
    assert decide_licence(expression, ALLOW).allowed


@pytest.mark.parametrize(
    "expression",
    [
        UNRESOLVED,
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "GPL-2.0-only",
        "NOASSERTION OR MIT",
        "MIT AND",
        "Beerware-ish licence",
    ],
)
def test_everything_else_is_refused(expression):
    assert not decide_licence(expression, ALLOW).allowed
    assert decide_licence(expression, ALLOW).chosen == ""


@given(st.lists(st.sampled_from(["MIT", "Apache-2.0", "GPL-3.0-only", "MPL-2.0"]), min_size=1, max_size=4))
def test_and_needs_all_and_or_needs_one(names):
    allowed = [name in NAMES for name in names]
    assert decide_licence(" AND ".join(names), ALLOW).allowed == all(allowed)
    assert decide_licence(" OR ".join(names), ALLOW).allowed == any(allowed)


def test_spelling_is_made_canonical():
    assert normalise_spdx("mit or apache-2.0") == "MIT OR Apache-2.0"
    assert normalise_spdx("a licence of my own") == UNRESOLVED
    assert normalise_spdx("") == UNRESOLVED


def _choice(expression, is_credited=True, **policy):
    values = {"allow": ["MIT", "CC-BY-4.0", "GPL-3.0-only", "CC-BY-SA-4.0", "0BSD"], **policy}
    return decide_licence(expression, LicencePolicy(**values), is_credited=is_credited).chosen


def test_what_is_denied_is_refused_although_a_word_lets_all_of_its_kind_in():
    assert _choice("MPL-2.0 OR ISC", allow=["osi-approved"]) == "MPL-2.0"
    assert _choice("MPL-2.0 OR ISC", allow=["osi-approved"], deny=["MPL-2.0"]) == "ISC"
    assert _choice("CC-BY-4.0", allow=["osi-approved"]) == ""  # open, and on no list of the initiative
    assert "MPL-2.0" not in LicencePolicy(allow=["osi-approved"], deny=["MPL-2.0"]).identifiers()
    with pytest.raises(pydantic.ValidationError, match="SPDX"):
        LicencePolicy(allow=["MIT"], deny=["osi-approved"])


def test_share_alike_can_be_ruled_out_and_another_alternative_is_taken_then():
    assert _choice("CC-BY-SA-4.0 OR CC-BY-4.0") == "CC-BY-4.0"
    assert _choice("GPL-3.0-only OR CC-BY-SA-4.0") == "GPL-3.0-only"
    assert _choice("GPL-3.0-only OR CC-BY-SA-4.0", share_alike="deny") == ""
    assert _choice("GPL-3.0-only OR 0BSD", share_alike="deny") == "0BSD"


def test_what_needs_attribution_can_depend_on_a_credit_or_be_ruled_out():
    assert _choice("MIT", needs_attribution="with-credit") == "MIT"
    assert _choice("MIT", is_credited=False, needs_attribution="with-credit") == ""
    assert _choice("MIT OR 0BSD", is_credited=False, needs_attribution="with-credit") == "0BSD"
    assert _choice("MIT", needs_attribution="deny") == ""
    assert _choice("MIT", is_credited=False) == "MIT"


def test_unknown_obligations_are_refused_where_any_is_ruled_out():
    licence = "Artistic-2.0"  # not in the table
    assert _choice(licence, allow=[licence]) == licence
    assert _choice(licence, allow=[licence], share_alike="deny") == ""
    assert _choice(licence, allow=[licence], needs_attribution="deny") == ""


def test_weak_evidence_is_kept_unless_the_policy_says_otherwise():
    assert not LicencePolicy(allow=["MIT"]).refuses_evidence("hf-card")
    strict = LicencePolicy(allow=["MIT"], weak_evidence="deny")
    assert [strict.refuses_evidence(kind) for kind in ("hf-card", "dataset-field", "none")] == [True, False, False]


def test_a_template_that_nobody_filled_in_names_no_holder():
    lines = [
        "Copyright (c) <year> <copyright holders>",
        "Copyright [yyyy] [name of copyright owner]",
        "Copyright (c) Ada",
    ]
    assert credit_lines([*lines, "Copyright 2020 Bob <bob@example.org>"]) == [
        lines[2],
        "Copyright 2020 Bob <bob@example.org>",
    ]


def test_what_a_policy_refuses_names_no_licence():
    assert decide_licence("GPL-3.0-only", ALLOW) == LicenceDecision(False, "")
