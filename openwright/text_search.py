"""Where a passage stands in the text that a stage was trained on, and which steps read it."""

from itertools import accumulate
from typing import Any

import numpy as np

from data_recipes.text_index import Match, open_text_index
from data_recipes.token_texts import TokenTexts, read_token_texts
from data_recipes.windows import TokenWindows
from openwright.inspection import Readings
from provenance.digests import sha256_file
from provenance.errors import BundleError

CONTEXT_BYTES = 60


def search_text(readings: Readings, passage: str, limit: int) -> dict[str, Any]:
    """Find a passage in the documents of a stage's split, byte by byte; the index is made at the first search.

    Args:
        readings: the readings of a stage that reads windows of text.
        limit: most places to name.

    Returns:
        `{text, num_places, places: [...]}`; of each place the document, its first byte, first and last token there, the
        steps that read any of these tokens, and the text around it.

    Raises:
        ConfigError: for an empty passage, or when the library that makes the index is missing.
        BundleError: for a dataset without a manifest.
        DataError: for a stage of conversations.
    """
    lookup = readings.lookup
    dataset, tokenizer_json = readings.bundle.dataset, readings.bundle.model / "tokenizer.json"
    windows = TokenWindows(dataset, lookup.split, readings.window_tokens)
    manifest = dataset / "manifest.json"
    if not manifest.is_file():
        raise BundleError("no manifest of the dataset", expected="the name of its index", where=str(manifest))
    name = f"text-2-{sha256_file(manifest)}-{lookup.split}"
    texts = read_token_texts(tokenizer_json)
    index = open_text_index(windows, texts, readings.cache / name)
    wanted = texts.normal_form(passage)
    num_places, matches = index.find(wanted, limit, CONTEXT_BYTES)
    places = [_place(readings, windows, texts, match, len(wanted)) for match in matches]
    return {"text": wanted.decode(errors="replace"), "num_places": num_places, "places": places}


def _place(
    readings: Readings, windows: TokenWindows, texts: TokenTexts, match: Match, size_bytes: int
) -> dict[str, Any]:
    row = readings.lookup.index.row(int(readings.lookup.rows.of_source(match.source)[match.document]))
    source = [source.name for source in windows.sources].index(match.source)
    ends = np.array(list(accumulate(texts.lengths(windows.document(source, match.document).tolist()))))
    first, last = np.searchsorted(ends, [match.begin, match.begin + size_bytes - 1], side="right").tolist()
    return {
        "document_id": row.document_id,
        "source": row.source,
        "licence_spdx": row.licence,
        "byte": match.begin,
        "tokens": [first, last],
        "steps": readings.steps_of(row, (first, last + 1)),
        "before": match.before.decode(errors="ignore"),
        "after": match.after.decode(errors="ignore"),
    }


def text_lines(found: dict[str, Any]) -> list[str]:
    """The places of a passage for people."""
    num_places, places = found["num_places"], found["places"]
    more = f", {len(places)} of them below" if len(places) < num_places else ""
    lines = [f"{num_places:,} place{'' if num_places == 1 else 's'} in the text of pretraining{more}"]
    for place in places:
        first, last = place["tokens"]
        steps = ", ".join(map(str, place["steps"])) or "none"
        around = " ".join(f"{place['before']}[{found['text']}]{place['after']}".split())
        lines.append(f"{place['document_id'][:12]}  {place['source']}, {place['licence_spdx']}, byte {place['byte']:,}")
        lines.append(f"    {around}")
        lines.append(f"    tokens {first:,} to {last:,} of the document, read in pretraining steps: {steps}")
    return lines
