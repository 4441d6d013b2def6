"""Rows of conversations and pairs are trained as what they are, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import WINDOW_TOKENS, pretrain_config

from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from provenance.errors import ConfigError
from train.run_order import open_windows


def _corpus(root: Path, split: str, packing: str) -> Path:
    width = WINDOW_TOKENS + 1
    row = TokenSequence("ab" * 32, "alpha", np.arange(width), np.ones(width, np.uint8))
    entry = write_split(root, split, [row], layout="rows", width=width, dtype="u16", num_shards=1)
    write_tokens_json(root, {split: entry}, vocab_size=100, eos_id=0, pad_id=1, tokenizer_sha256="a" * 64)
    sections = {"chats": {"packing": packing}, "conversations": {"parameters": {"packing": packing}}}
    (root / "corpus.json").write_text(json.dumps(sections))
    return root


def _data(split: str, **changes: object) -> dict[str, object]:
    data = {"split": split, "window_tokens": WINDOW_TOKENS, "heldout_split": f"{split}-heldout"}
    return {**data, "heldout_windows": 1, "heldout_every_steps": 1, **changes}


@pytest.mark.parametrize("split", ["chat", "sft"])
def test_conversations_that_share_rows_need_document_masking(tmp_path, split):
    corpus = _corpus(tmp_path, split, "best-fit")
    with pytest.raises(ConfigError, match="share rows"):
        open_windows(pretrain_config(data=_data(split)), corpus)
    assert open_windows(pretrain_config(data=_data(split, document_masking=True)), corpus).pools[0].num_windows == 1


def test_conversations_in_rows_of_their_own_need_none(tmp_path):
    corpus = _corpus(tmp_path, "chat", "none")
    assert open_windows(pretrain_config(data=_data("chat")), corpus).pools[0].num_windows == 1


def test_pairs_are_no_conversations(tmp_path):
    corpus = _corpus(tmp_path, "preference", "none")
    with pytest.raises(ConfigError, match="rejected answer"):
        open_windows(pretrain_config(data=_data("preference")), corpus)
