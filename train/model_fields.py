"""Whether transformers knows the model type and the fields that a config names: told before anything is made of them.

Only transformers' own config class can say that it lacks a field, and importing it loads torch. So its source is looked
at first: a name that stands in it as a word of the program is left to the training itself, any other is asked about.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenance.config import did_you_mean
from train.settings import ModelConfig

_BASE = "configuration_utils.py"


@dataclass(frozen=True)
class UnknownName:
    """A name of a model config that transformers does not know.

    Attributes:
        keys: where it stands below `model`.
        found, expected: as an error says it.
    """

    keys: tuple[str, ...]
    found: str
    expected: str


def unknown_name(config: ModelConfig) -> UnknownName | None:
    """The first name of a config that transformers does not know; imports transformers and torch."""
    from transformers import AutoConfig

    try:
        defaults = AutoConfig.for_model(config.model_type)
    except ValueError:
        found = f"model.model_type {config.model_type!r}"
        return UnknownName(("model_type",), found, "a model type that transformers knows, such as olmo3")
    for key in config.fields:
        if not hasattr(defaults, key):
            found = f"unknown key 'model.fields.{key}': {type(defaults).__name__} of transformers has no such field"
            known = sorted({*defaults.to_dict(), *defaults.attribute_map})
            return UnknownName(("fields", key), found, did_you_mean(key, known))
    return None


def may_have_unknown_name(config: ModelConfig) -> bool:
    """Whether a name of a config does not stand in the sources of its class; torch is not imported."""
    left = set(config.fields)
    for names in _names_in_sources(config.model_type):
        left -= names
        if not left:
            return False
    return True


def _names_in_sources(model_type: str) -> Iterator[set[str]]:
    """The names in the source of a model type's config class, and of what all such classes derive from; read lazily."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return
    root = Path(package.origin).parent
    own = root / "models" / model_type / f"configuration_{model_type}.py"
    for path in (own, root / _BASE) if own.is_file() else ():
        yield set(_names(ast.parse(path.read_text(encoding="utf-8"))))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.Constant(value=str(name)):
                yield name
