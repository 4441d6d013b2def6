import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.canonical import (
    MAX_SAFE_INTEGER,
    canonical_json,
    hex_float,
    parse_hex_float,
    parse_json,
    read_json,
    write_json,
)
from provenance.errors import BundleError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_canonical_json_round_trips(value):
    assert parse_json(canonical_json(value), "here") == value


@given(st.dictionaries(text, values, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_key_order_never_shows(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)


@given(values, values)
def test_equal_bytes_only_for_equal_values(first, second):
    # repr tells True from 1, which == does not
    def plain(value):
        return json.dumps(value, sort_keys=True)

    assert (canonical_json(first) == canonical_json(second)) == (plain(first) == plain(second))


def test_known_bytes():
    value = {"b": [1, True, None], "a": "Ж漢", "": "\n"}
    assert canonical_json(value) == '{"":"\\n","a":"Ж漢","b":[1,true,null]}'.encode()


@pytest.mark.parametrize("value", [1.5, float("nan"), {"a": 2.0}, {1: "a"}, {"a": {3}}, b"bytes"])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), "\ud800", [["deep"]] * 2])
def test_values_outside_the_limits_are_refused(value):
    if value == [["deep"]] * 2:
        for _ in range(100):
            value = [value]
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError is a ValueError with its own words
        canonical_json(value)


@given(st.floats(allow_nan=False))
def test_hex_floats_lose_no_bit(number):
    back = parse_hex_float(hex_float(number))
    assert back == number
    assert math.copysign(1, back) == math.copysign(1, number)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"[Infinity]",
        b"[1e999]",
        b"\xff\xfe",
        b"{",
        b"",
        b"[" * 200_000,
    ],
)
def test_hostile_json_is_refused_with_its_place(data):
    with pytest.raises(BundleError, match=r"some/file\.json"):
        parse_json(data, "some/file.json")


@given(values)
def test_written_files_read_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "deeper" / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(BundleError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")
