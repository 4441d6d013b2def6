"""`openwright data build`: a corpus by itself, from a recipe alone or from the configs of a release."""

import json

import pytest
import yaml
from corpus_fixtures import tiny_corpus_values

from openwright import cli
from provenance.artifacts import latest_artifact


@pytest.fixture
def recipe(tmp_path):
    """A config directory with a corpus.yaml and nothing else."""
    values = tiny_corpus_values(tmp_path)
    execution = {key: str(value) if key.endswith("dir") else value for key, value in values["execution"].items()}
    directory = tmp_path / "mine"
    directory.mkdir()
    text = yaml.safe_dump({**values, "execution": execution}, allow_unicode=True)
    (directory / "corpus.yaml").write_text(text, encoding="utf-8")
    return directory


def test_a_recipe_alone_becomes_a_corpus(recipe, tmp_path, capfd):
    arguments = ["data", "build", str(recipe), "--dev", "--artifacts", str(tmp_path / "store")]
    assert cli.invoke([*arguments, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [source["name"] for source in found["sources"]] == ["alpha", "beta", "gamma"]
    assert found["num_documents"]["kept"] == sum(source["kept"] for source in found["sources"])
    made = latest_artifact(tmp_path / "store" / "mine", "corpus")
    assert made.content_digest == found["content_digest"]
    assert cli.invoke([*arguments[:2], str(recipe / "corpus.yaml"), *arguments[3:]]) == 0
    text = capfd.readouterr().out
    assert "next: openwright data licences --in " in text
    assert "BSD-3-Clause" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda recipe: [str(recipe / "release.yaml")], "or its corpus.yaml"),
        (lambda recipe: [str(recipe), "--set", "pretrain.seed=1"], "--set corpus.KEY=VALUE"),
        (lambda recipe: [str(recipe), "--set", "corpus.num_shrads=2"], "num_shards"),
        (lambda recipe: [str(recipe / "nowhere")], "corpus.yaml"),
    ],
)
def test_what_is_no_recipe_is_bad_usage(change, words, recipe, tmp_path, capfd):
    assert cli.invoke(["data", "build", *change(recipe), "--dev", "--artifacts", str(tmp_path)]) == 2
    assert words in capfd.readouterr().err


def test_the_corpus_of_a_release_is_that_of_its_configs(recipe, tmp_path, capfd):
    (recipe / "release.yaml").write_text("name: other\n")
    assert cli.invoke(["data", "build", str(recipe), "--dev", "--artifacts", str(tmp_path)]) == 2
    assert "release.yaml" in capfd.readouterr().err
