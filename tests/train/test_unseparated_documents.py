"""Documents that masking cannot tell from the next, because no token ends them: a run says how many it reads."""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs

from provenance.canonical import write_json
from provenance.errors import StoppedForRequeue
from train import jobs


@pytest.mark.parametrize(
    ("masking", "split", "in_place", "told"),
    [
        (True, "train", True, True),
        (False, "train", True, False),
        (True, "heldout", True, False),
        (True, "train", False, False),
    ],
)
def test_a_run_that_masks_documents_says_which_have_no_end(
    masking: bool, split: str, in_place: bool, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise StoppedForRequeue("seen")

    said: list[str] = []
    monkeypatch.setattr(jobs, "launch", launch)
    monkeypatch.setattr(jobs, "fact", said.append)
    corpus = tiny_runs.make_corpus(tmp_path / "corpus")
    ended = {"name": "alpha", "split": "train", "statistics": {"num_documents": 9}}
    theirs = {"name": "theirs", "split": split, "statistics": {"num_documents": 9, "num_without_eos": 3}}
    entries = [ended, {**theirs, "in_place": True} if in_place else {**theirs, "statistics": {"num_documents": 9}}]
    write_json(corpus.path / "sources.lock", {"sources": entries})
    config = small_jobs.small_config(data={**small_jobs.SMALL["data"], "document_masking": masking})
    with pytest.raises(StoppedForRequeue):
        jobs.pretrain(config, tiny_runs.context(tmp_path), corpus)
    assert ["3 documents without an end token" in text for text in said] == ([True] if told else [])
