"""`generation_config.json` of a released model: where text that it writes ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provenance.canonical import Json, read_json


def generation_settings(final: Path, corpus_recipe: Mapping[str, Any]) -> dict[str, Json]:
    """Return the content of `generation_config.json` for a checkpoint.

    Text ends with the end-of-text token. Where the model has a chat template, an answer ends as well with the token
    that closes each turn, which is what fine-tuning taught.

    Args:
        final: directory of the checkpoint, with its tokenizer.
        corpus_recipe: the recipe of the corpus, which names the special tokens.
    """
    config = read_json(final / "config.json")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    values = {name: config[name] for name in names if config.get(name) is not None}
    turn_end = _turn_end_id(final, corpus_recipe)
    if turn_end is not None and "eos_token_id" in values:
        values["eos_token_id"] = list(dict.fromkeys([values["eos_token_id"], turn_end]))
    return {**values, "transformers_version": config["transformers_version"]}


def _turn_end_id(final: Path, corpus_recipe: Mapping[str, Any]) -> int | None:
    """Id of the token that closes a turn, or None for a model without a chat template that writes one."""
    token = corpus_recipe.get("tokenizer", {}).get("special_tokens", {}).get("end")
    template = final / "chat_template.jinja"
    if token is None or not template.is_file() or token not in template.read_text(encoding="utf-8"):
        return None
    added = read_json(final / "tokenizer.json")["added_tokens"]
    return next((int(entry["id"]) for entry in added if entry["content"] == token), None)
