"""Where generation ends: with the end of text and, in a chat, with the end of the turn."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from provenance.canonical import write_json
from release.generation import generation_settings

RECIPE = {"tokenizer": {"special_tokens": {"end": "<|end|>", "end_of_text": "<|endoftext|>"}}}
TEMPLATE = "{% generation %}{{ message['content'] }}{{ '<|end|>' }}{% endgeneration %}"


@pytest.fixture
def final(tmp_path: Path) -> Path:
    write_json(tmp_path / "config.json", {"eos_token_id": 0, "pad_token_id": 1, "transformers_version": "5.23.0"})
    added = [{"id": 0, "content": "<|endoftext|>"}, {"id": 4, "content": "<|end|>"}]
    write_json(tmp_path / "tokenizer.json", {"added_tokens": added})
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


def test_a_chat_answer_stops_at_the_end_of_the_turn_too(final, tmp_path):
    settings = generation_settings(final, RECIPE)
    assert settings == {"eos_token_id": [0, 4], "pad_token_id": 1, "transformers_version": "5.23.0"}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [0, 4]


@pytest.mark.parametrize("recipe", [{}, {"tokenizer": {}}, {"tokenizer": {"special_tokens": {"end": "<|other|>"}}}])
def test_without_a_token_that_the_template_writes_only_the_end_of_text_stops(final, recipe: dict[str, Any]):
    assert generation_settings(final, recipe)["eos_token_id"] == 0


def test_a_model_without_a_chat_template_stops_at_the_end_of_text(final):
    (final / "chat_template.jinja").unlink()
    assert generation_settings(final, RECIPE)["eos_token_id"] == 0
