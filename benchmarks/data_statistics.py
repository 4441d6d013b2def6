"""All statistics of a text in one pass, against datatrove's filters, which segment the words anew in each."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from data_peers import Peers, batches_of, in_turn
from data_text import MEGABYTE
from figures import Figure, make_figure

from data_recipes.text_reading import read_text

PEER_MEGABYTES = 8
"""The peer needs some nine seconds for a megabyte."""
FILTERS = ("datatrove-gopher-quality", "datatrove-gopher-repetition", "datatrove-fineweb")


def statistics_figures(texts: Sequence[str], peers: Path) -> list[Figure]:
    """MB per processor second: all our statistics, languages and personal data among them, against three filters."""
    batches = batches_of(texts, MEGABYTE // 2)
    with Peers(peers) as worker:
        rates = in_turn(
            measure, lambda batch: sum(worker.seconds(task, batch) for task in FILTERS), batches[: 2 * PEER_MEGABYTES]
        )
    ratio = median(ours / peer for ours, peer in rates.pairs)
    name = "all statistics against datatrove's Gopher quality and repetition and FineWeb filters, MB per CPU second"
    return [make_figure(name, rates.ours, rates.peer, ratio=ratio, runs=len(rates.pairs))]


def measure(batch: Sequence[str]) -> None:
    """Take the statistics of some texts."""
    for text in batch:
        read_text(text)
