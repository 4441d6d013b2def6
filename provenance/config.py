"""Strict configuration: YAML into frozen typed models, with errors that name file, line and nearest key.

A config has one optional section named `execution` for what must not change results (processes, caches, logging).
Everything else is the recipe: it is hashed into fingerprints by `recipe_of`.
"""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from provenance.canonical import Json, hex_float, parse_hex_float
from provenance.errors import ConfigError

EXECUTION_SECTION = "execution"
_MEND = "mend the file there and run the same command again"
_OTHER_SET = "the same command with another --set"
_HEX_FLOAT = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-][0-9]+")


class Config(BaseModel):
    """Base of all config models: frozen, no unknown keys, no silent conversions of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


ConfigType = TypeVar("ConfigType", bound=Config)


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.1 with the floats of YAML 1.2: `1e-3` is a number here, not a text."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path, model: type[ConfigType], overrides: Sequence[str] = ()) -> ConfigType:
    """Read a YAML file into `model`.

    Args:
        path: the YAML file.
        overrides: `a.b=value` texts; each value is read as YAML and must name a key that the model knows.

    Raises:
        ConfigError: for a missing file, bad YAML, duplicate or unknown keys and wrong values.
    """
    values, lines = _read_yaml(path)
    return _validated(values, model, overrides, lines, path)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the keys of a YAML file, by no model: for a command that passes a config on.

    Raises:
        ConfigError: for a missing file, bad YAML and duplicate keys.
    """
    return _read_yaml(path)[0]


def override_config(values: dict[str, Any], model: type[ConfigType], overrides: Sequence[str]) -> ConfigType:
    """Make a config of values that are at hand, changed by `a.b=value` texts as `load_config` does.

    Raises:
        ConfigError: for an unknown key or a wrong value.
    """
    return _validated(copy.deepcopy(values), model, overrides, {}, Path("--set"))


def _validated(
    values: dict[str, Any],
    model: type[ConfigType],
    overrides: Sequence[str],
    lines: dict[tuple[str | int, ...], int],
    path: Path,
) -> ConfigType:
    for override in overrides:
        _apply_override(values, override, lines, path)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, model, lines, path) from None


def recipe_of(config: Config) -> Json:
    """Return the part of a config that decides results, ready for hashing: no execution section, floats as hex."""
    values = config.model_dump(mode="python", exclude={EXECUTION_SECTION})
    return _hashable(values)


def from_recipe(recipe: Json, model: type[ConfigType]) -> ConfigType:
    """Rebuild a config from what `recipe_of` returned; execution fields take their defaults."""
    return model.model_validate(_with_floats(recipe), strict=False)


def _with_floats(value: Json) -> Any:
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, str) and _HEX_FLOAT.fullmatch(value):
        return parse_hex_float(value)
    return value


def _hashable(value: Any) -> Json:
    if isinstance(value, float):
        return hex_float(value)
    if isinstance(value, Mapping):
        return {str(key): _hashable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hashable(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "there is no such config file",
            expected="a YAML file in UTF-8",
            where=str(path),
            next_command=f"write {path.name}; configs/ has one of every kind to copy from",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"cannot read the config ({reason})", expected="a YAML file in UTF-8", where=str(path), next_command=_MEND
        ) from None
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        root = yaml.compose(text, Loader=_YamlLoader)
        if root is not None:
            _collect_lines(root, (), lines, path)
        values = _YamlLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", error))
        raise ConfigError(problem, expected="valid YAML", where=where, next_command=_MEND) from None
    if not isinstance(values, dict):
        found = "the file is empty" if values is None else f"found {type(values).__name__}"
        raise ConfigError(found, expected="a mapping of keys", where=str(path), next_command=_MEND)
    return values, lines


def _collect_lines(
    node: yaml.Node, at: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], path: Path
) -> None:
    lines[at] = lines.get(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            child = (*at, str(key_node.value))
            line = key_node.start_mark.line + 1
            if child in lines:
                raise ConfigError(
                    f"key {key_node.value!r} appears twice",
                    expected="each key once",
                    where=f"{path}:{line}",
                    next_command=_MEND,
                )
            lines[child] = line
            _collect_lines(value_node, child, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect_lines(item, (*at, index), lines, path)


def _apply_override(values: dict[str, Any], override: str, lines: dict[tuple[str | int, ...], int], path: Path) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise _wrong_override(f"override {override!r}", path)
    keys = dotted.split(".")
    target: Any = values
    for key in keys[:-1]:
        if isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, dict):
            target = target.setdefault(key, {})
        else:
            raise _wrong_override(f"override {override!r} goes through a value", path)
    try:
        value = _YamlLoader(text).get_single_data()
    except yaml.YAMLError:
        raise _wrong_override(f"override {override!r}", path, "a YAML value after =") from None
    if not isinstance(target, dict):
        raise _wrong_override(f"override {override!r} does not end in a key", path)
    target[keys[-1]] = value
    lines[tuple(keys)] = 0
    for depth in range(1, len(keys)):
        lines.setdefault(tuple(keys[:depth]), 0)  # a section that only the override made stands in no file


def _wrong_override(found: str, path: Path, expected: str = "--set key.key=value") -> ConfigError:
    return ConfigError(found, expected=expected, where=str(path), next_command=_OTHER_SET)


def _explain(
    error: ValidationError, model: type[Config], lines: dict[tuple[str | int, ...], int], path: Path
) -> ConfigError:
    # A misspelt required key is reported twice, as missing and as unknown; the unknown one leads to the mend.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = tuple(first["loc"])
    where, next_command = _place(location, lines, path)
    dotted = ".".join(str(part) for part in location) or "the config"
    message = first["msg"].removeprefix("Value error, ")
    found, expected = f"{dotted} = {first.get('input')!r}", message
    if first["type"] == "extra_forbidden":
        found, expected = f"unknown key {dotted!r}", _nearest_key(model, location)
    elif first["type"] == "missing":
        found, expected = f"key {dotted!r} is missing", "a value for it"
    elif not location:
        found = "values that do not go together"
    return ConfigError(found, expected=expected, where=where, next_command=next_command)


def wrong_value(
    path: Path, overrides: Sequence[str], location: tuple[str | int, ...], found: str, expected: str
) -> ConfigError:
    """The error of a value that no model can judge, with the place where it stands, as `load_config` would say it.

    Args:
        path, overrides: what `load_config` read.
        location: keys down to the value.
        found, expected: what is wrong with it.
    """
    values, lines = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override, lines, path)
    where, next_command = _place(location, lines, path)
    return ConfigError(found, expected=expected, where=where, next_command=next_command)


def _place(location: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], path: Path) -> tuple[str, str]:
    """Where a value stands, in the file or on the command line, and the command that mends it."""
    known = [location[:size] for size in range(len(location), -1, -1) if location[:size] in lines]
    line = lines[known[0]] if known else 1
    if line:
        return f"{path}:{line}", _MEND
    return f"--set {'.'.join(map(str, location))}", _OTHER_SET


def _nearest_key(model: type[Config], location: tuple[str | int, ...]) -> str:
    """Say which key an unknown one may stand for: its like in the same place, or the same name in a section."""
    key, keys = str(location[-1]), _keys_at(model, location[:-1])
    if len(location) == 1:
        inner = [f"{section}.{key}" for section in keys if key in _keys_at(model, (section,))]
        keys = inner or keys
    return did_you_mean(key, keys)


def did_you_mean(key: str, known: Sequence[str]) -> str:
    """What an error expects in place of an unknown key: the known one that is most like it."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"did you mean {nearest[0]!r}?" if nearest else "no keys here"


def _keys_at(model: type[Config], location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that a (nested) model knows at a location; empty where it is not a model."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _first_model(current.model_fields[str(part)].annotation)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _first_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _first_model(argument)
        if found is not None:
            return found
    return None
