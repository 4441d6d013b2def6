"""The shape of the project: who may import whom, names that shadow nothing, and what no file may hold."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "provenance": set(),
    "data_recipes": {"provenance"},
    "train": {"provenance", "data_recipes"},
    "eval": {"provenance", "data_recipes"},
    "release": {"provenance", "data_recipes", "train", "eval"},
    "openwright": {"provenance", "data_recipes", "train", "eval", "release"},
}
MODULES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 600
MAX_LINES_OF = {"release/verify.py": 1650}  # one file, so that a stranger can read it and carry it about
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.load", "np.load"}
# Written in parts, so that this file does not hold what it looks for.
FORBIDDEN_TEXT = [
    re.compile("/" + r"(?:home|root|Users|mnt|scratch)/[\w.]"),
    re.compile("/" + r"work/(?:main|shared)\b"),
    re.compile(r"files\.python" + r"hosted\.org"),
    re.compile(r"(?:^|[/.])pypi\." + r"org"),
    re.compile(r"download\.py" + r"torch\.org"),
]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def layer_problems(package, source):
    """Imports in `source`, a module of `package`, that go up or sideways, or are relative."""
    problems = []
    for module in imported_modules(ast.parse(source)):
        top = module.split(".")[0]
        if module.startswith(".") or (top in ALLOWED and top != package and top not in ALLOWED[package]):
            problems.append(module)
    return problems


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_go_down_only(path):
    assert layer_problems(path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("provenance", "import data_recipes"),
        ("provenance", "def f():\n    from train.loop import x"),
        ("train", "from eval.scoring import choose"),
        ("eval", "import train.loop as t"),
        ("release", "from openwright import cli"),
        ("data_recipes", "from . import order"),
        ("data_recipes", "if 1:\n    import release.layout"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(package, source):
    assert layer_problems(package, source)


def test_no_module_shadows_a_dependency_or_the_standard_library():
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    taken -= set(ALLOWED)
    ours = {path.stem for path in MODULES if not path.stem.startswith("__")}
    assert {"json", "torch", "yaml"} <= taken
    assert ours & taken == set()


def forbidden_code(source):
    """Unsafe ways to read data that a module uses."""
    tree = ast.parse(source)
    found = {module for module in imported_modules(tree) if module.split(".")[0] in FORBIDDEN_IMPORTS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            found.add(ast.unparse(node.func))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.add(f"trust_remote_code={ast.unparse(node.value)}")
    return found - {"trust_remote_code=False"}


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_nothing_reads_data_that_can_run_code(path):
    assert forbidden_code(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load('x')",
        "import yaml\nyaml.load('x', Loader=L)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_unsafe_reading_is_found(source):
    assert forbidden_code(source)


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_files_stay_readable_at_one_sitting(path):
    limit = MAX_LINES_OF.get(path.relative_to(ROOT).as_posix(), MAX_LINES)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def project_files():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    return sorted(ROOT / name for name in listed.stdout.decode().split("\0") if name)


def forbidden_text(text):
    return [match.group(0) for pattern in FORBIDDEN_TEXT for match in pattern.finditer(text)]


def test_no_file_names_a_machine_path_or_a_package_registry():
    found = []
    for path in project_files():
        name = path.relative_to(ROOT).as_posix()
        if not path.is_file() or name == "tests/test_layers.py":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {problem}" for problem in forbidden_text(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["see /home/somebody/x", "/root/.cache", "https://pypi." + "org/simple", "--index-url https://pypi." + "org"],
)
def test_machine_paths_and_registries_are_found(text):
    assert forbidden_text(text)
