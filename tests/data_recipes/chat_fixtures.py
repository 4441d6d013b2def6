"""Conversations and pairs from files, read and turned into rows without the rest of a corpus."""

from pathlib import Path
from typing import Any

from data_recipes.build import Build
from data_recipes.chat_rows import BuiltChats, build_chats
from data_recipes.chat_step import chat_values, read_chat_file, stored_chats
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import Outputs, TaskRecord


def build_alone(root: Path, tokenizer: Any, chats: dict[str, Any], **changes: Any) -> BuiltChats:
    """Do the steps for `chats` in `root / "work"`.

    Args:
        root: where the files of the sources lie.
        chats: the section of the recipe.
        changes: other sections of it.
    """
    text = {"type": "dataset", "name": "none", "format": "jsonl", "split": "train", "as_of": "2026-11-25"}
    values = {
        "sources": [{**text, "files": [{"path": "x", "sha256": "0" * 64}], "licence_column": "licence"}],
        "policy": {"allow": ["MIT"]},
        "tokenizer": {"vocab_size": 330},
        "conversations": {"window_tokens": 63},
        "execution": {"data_dir": root},
        "chats": chats,
    }
    config = CorpusConfig.model_validate(values | changes)
    assert config.chats is not None
    work = root / "work"
    records = [
        TaskRecord("", (), read_chat_file(Build(work, config), value, Outputs(work)))
        for value in chat_values(config.chats, heldout=[])
    ]
    return build_chats(config.chats, stored_chats(work, config, records), tokenizer, root, work, 2)
