"""The normal form of texts, against a slow rendering of its definition: one rule after another, by patterns."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from data_recipes.text import normalise

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufffe\uffff]")
SPACES = " \t\xa0\u1680\u2003\u202f\u3000\n\r\f\v\x1c\x1f\x85\u2028\u2029"


def by_patterns(text):
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = CONTROL.sub("", text.replace("\f", "\n")).expandtabs(4)
    text = re.sub(r"[^\S\n]+$", "", unicodedata.normalize("NFC", text), flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


@given(
    st.one_of(
        st.text(st.characters(codec=None), max_size=60),
        st.text(st.sampled_from(SPACES + "aя\x00\x7f\ufeff\u0301e"), max_size=60),
        st.text(st.sampled_from(" \t\n\r\f\vab\x00\x1d\x7f"), max_size=60),
    )
)
def test_the_normal_form_is_that_of_its_definition(text):
    assert normalise(text) == by_patterns(text)
    assert normalise(normalise(text)) == normalise(text)


def test_every_character_alone_and_between_others():
    for code in range(0x10000):
        character = chr(code)
        for text in (character, f"a{character}b", f"a {character}\nb"):
            assert normalise(text) == by_patterns(text), hex(code)
