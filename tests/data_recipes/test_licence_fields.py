"""Licences as rows and cards of data sets write them."""

import pytest

from data_recipes.document import UNRESOLVED
from data_recipes.licence_fields import spdx_of_field

CC = "https://creativecommons.org"


@pytest.mark.parametrize(
    ("declared", "spdx"),
    [
        ("mit", "MIT"),
        (" MIT License ", "MIT"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("(MIT) AND (ISC)", "MIT AND ISC"),
        (f"(MIT License) AND ({CC}/licenses/by/4.0/) AND (MIT)", "MIT AND CC-BY-4.0"),
        ("odc-by", "ODC-By-1.0"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("BSD 3-Clause", "BSD-3-Clause"),
        ("Apache 2 License - https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        (f"Creative Commons - Attribution - {CC}/licenses/by/4.0/", "CC-BY-4.0"),
        (f"Creative Commons - Attribution Share-Alike - {CC}/licenses/by-sa/3.0/", "CC-BY-SA-3.0"),
        (f"Creative Commons Zero - Public Domain - {CC}/publicdomain/zero/1.0/", "CC0-1.0"),
        (f"{CC}/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        (f"{CC}/licenses/by/4.0/legalcode", "CC-BY-4.0"),
        (f"{CC}/licenses/by-nc/4.0/deed.en", "CC-BY-NC-4.0"),
    ],
)
def test_what_has_one_meaning_is_understood(declared, spdx):
    assert spdx_of_field(declared, {}) == spdx


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "other",
        "Public Domain",
        "GNU Free Documentation License",
        "BSD License",
        "GPL",
        "Creative Commons - Attribution",
        f"{CC}/licenses/by/9.0/",
        f"{CC}/licenses/by-sa/2.1/",
        f"{CC}/publicdomain/other/1.0/",
        "https://evilcreativecommons.org/licenses/by/4.0/",
        f"{CC}.example.org/licenses/by/4.0/",
        f"{CC}/licenses/by/4.0/ and {CC}/licenses/by-sa/4.0/",
        f"Attribution Non-Commercial {CC}/licenses/by/4.0/",
        f"Attribution, NoDerivs {CC}/licenses/by/4.0/",
        f"Attribution-ShareAlike {CC}/licenses/by/4.0/",
        "MIT\x00",
        "(MIT) AND (other)",
        "(MIT) AND (",
        "(" * 500,
    ],
)
def test_what_has_several_meanings_or_none_is_not(declared):
    assert spdx_of_field(declared, {}) == UNRESOLVED


def test_the_recipe_says_what_words_mean():
    names = {"Public Domain": "CC-PDM-1.0", "mit": "0BSD"}
    assert spdx_of_field("Public Domain", names) == "CC-PDM-1.0"
    assert spdx_of_field("mit", names) == "0BSD"
    assert spdx_of_field("public domain", names) == UNRESOLVED
