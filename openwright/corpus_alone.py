"""`openwright data build`: a corpus by itself, before there are configs for the stages that would read it."""

from collections.abc import Sequence
from pathlib import Path

from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from openwright.configs import load_directory
from provenance.artifacts import Artifact
from provenance.canonical import Json, read_json
from provenance.config import load_config
from provenance.errors import ConfigError
from provenance.fingerprint import code_identity, require_clean
from provenance.stage import StageContext

_FILE = "corpus.yaml"
_PREFIX = "corpus."


def build_alone(place: Path, overrides: Sequence[str], store: Path, dev: bool) -> Artifact:
    """Build the corpus of a recipe, or return it where an equal one is there already.

    Args:
        place: a config directory or its corpus.yaml. Where release.yaml lies beside it, the corpus is that of the
            release, and `openwright run` finds it; else it is named after the directory.
        overrides: `corpus.key=value` texts.
        store: directory of all artifacts.
        dev: allow a dirty source tree; what it makes is never released.

    Raises:
        ConfigError: for a missing or wrong recipe, and overrides of other stages.
        CodeError: for a dirty tree without `dev`.
        SourceError, DataError: as `build_corpus`.
    """
    path = place / _FILE if place.is_dir() else place
    if path.name != _FILE:
        raise ConfigError(str(place), expected=f"a config directory, or its {_FILE}", where="command line")
    for override in overrides:
        if not override.startswith(_PREFIX):
            raise ConfigError(f"--set {override}", expected=f"--set {_PREFIX}KEY=VALUE", where="command line")
    directory = path.resolve().parent
    if (directory / "release.yaml").is_file():
        configs = load_directory(directory, overrides)
        name, config = configs.name, configs.models["corpus"]
    else:
        name = directory.name
        config = load_config(path, CorpusConfig, [override.removeprefix(_PREFIX) for override in overrides])
    code = code_identity()
    require_clean(code, dev=dev)
    return build_corpus(config, StageContext(name, store / name, code, dev))


def summary_of(artifact: Artifact) -> dict[str, Json]:
    """Return where a corpus lies and what it amounts to, per source and in all."""
    corpus = read_json(artifact.path / "corpus.json")
    sources = [
        {
            "name": source["name"],
            "split": source["split"],
            "kept": source["num_documents"]["kept"],
            "dropped": source["num_documents"]["dropped"],
            "num_tokens": source["num_tokens"],
            "licences": source["licences_chosen"],
        }
        for source in corpus["sources"]
    ]
    return {
        "path": str(artifact.path),
        "content_digest": artifact.content_digest,
        "num_documents": corpus["num_documents"],
        "sources": sources,
    }
