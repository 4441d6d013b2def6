"""A peer's code, run by another interpreter: `python benchmarks/peer_worker.py` reads JSON lines and answers each.

A line `{"task": NAME, "texts": [...]}` is answered with `{"seconds": processor seconds of the task}`. It imports
nothing of ours, and ours nothing of the peers: what they need lives in a virtual environment of their own
(`pip install "datatrove[processing]" spacy rensa`).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

SHINGLE_WORDS = 5


def shingles_of(text: str) -> list[str]:
    """Runs of five words, as rensa's users make them."""
    words = text.split()
    return [" ".join(words[place : place + SHINGLE_WORDS]) for place in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def rensa_r(texts: list[str]) -> None:
    """RMinHash, 128 permutations."""
    import rensa

    rensa.RMinHash.digest_matrix_from_token_sets([shingles_of(text) for text in texts], 128, 42)


def rensa_rho(texts: list[str]) -> None:
    """Rho sketch, 128 values: rensa's fastest."""
    import rensa

    rensa.RMinHash.digest_matrix_from_token_sets_rho([shingles_of(text) for text in texts], 128, 42)


@lru_cache(maxsize=1)
def _filters() -> dict[str, Any]:
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    return {
        "datatrove-gopher-quality": GopherQualityFilter(),
        "datatrove-gopher-repetition": GopherRepetitionFilter(),
        "datatrove-fineweb": FineWebQualityFilter(),
    }


def _filtering(name: str) -> Callable[[list[str]], None]:
    def run(texts: list[str]) -> None:
        from datatrove.data import Document

        chosen = _filters()[name]
        for number, text in enumerate(texts):
            chosen.filter(Document(text=text, id=str(number)))

    return run


def datatrove_chain(places: list[str]) -> None:
    """Reader, Gopher filters and MinHash signatures, given a JSON Lines file and a folder to write to."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.readers import JsonlReader

    path, folder = places
    directory, _, name = path.rpartition("/")
    chosen = _filters()
    steps = [
        JsonlReader(directory, glob_pattern=name),
        chosen["datatrove-gopher-quality"],
        chosen["datatrove-gopher-repetition"],
        MinhashDedupSignature(f"{folder}/signatures"),
    ]
    LocalPipelineExecutor(pipeline=steps, tasks=1, workers=1, logging_dir=f"{folder}/logs").run()


TASKS: dict[str, Callable[[list[str]], None]] = {
    "rensa-r": rensa_r,
    "rensa-rho": rensa_rho,
    "datatrove-gopher-quality": _filtering("datatrove-gopher-quality"),
    "datatrove-gopher-repetition": _filtering("datatrove-gopher-repetition"),
    "datatrove-fineweb": _filtering("datatrove-fineweb"),
    "datatrove-chain": datatrove_chain,
}


def main() -> None:
    """Answer lines until there are none; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.process_time()
        TASKS[request["task"]](request["texts"])
        print(json.dumps({"seconds": time.process_time() - began}), file=answers, flush=True)


if __name__ == "__main__":
    main()
