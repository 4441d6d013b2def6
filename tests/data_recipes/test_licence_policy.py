"""The licence policy: SPDX expressions against an allow-list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.document import UNRESOLVED
from data_recipes.policy import decide_licence, normalise_spdx

ALLOW = ["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-2.0-only WITH Classpath-exception-2.0"]


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
    allowed = [name in ALLOW for name in names]
    assert decide_licence(" AND ".join(names), ALLOW).allowed == all(allowed)
    assert decide_licence(" OR ".join(names), ALLOW).allowed == any(allowed)


def test_spelling_is_made_canonical():
    assert normalise_spdx("mit or apache-2.0") == "MIT OR Apache-2.0"
    assert normalise_spdx("a licence of my own") == UNRESOLVED
    assert normalise_spdx("") == UNRESOLVED
