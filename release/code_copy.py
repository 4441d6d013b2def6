"""The source tree in a bundle: what runs now, copied with a record that names its commit and files (`CODE.json`).

A run started from that directory has the same `sources/1` digests as the one that made the release.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from provenance.canonical import write_json
from provenance.digests import hash_files
from provenance.fingerprint import CODE_RECORD, PACKAGES, package_files

CODE_FORMAT = "openwright-code/1"
STATEMENTS_FOLDER = "statements"
OVERRIDES_FILE = "overrides.yaml"
RELEASE_FILE = "release.yaml"
_ROOT_FILES = ("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile")


def config_files(config_dir: Path) -> list[Path]:
    """YAML files of a release's configuration, without its statements, which speak about what they lead to."""
    found = (path for path in config_dir.rglob("*.yaml") if path.is_file())
    return sorted(p for p in found if STATEMENTS_FOLDER not in p.relative_to(config_dir).parts)


def copy_code(root: Path, config_dir: Path, target: Path, commit: str, overrides: Sequence[str] = ()) -> None:
    """Copy the packages, locks, documentation and this release's configs below `target` and write `CODE.json`.

    Args:
        root: directory that holds the running packages.
        target: `code/` of the bundle.
        commit: the commit that the stages recorded.
        overrides: `stage.key=value` texts that held beside the configs; kept with them in `overrides.yaml`, so that the
            copied directory alone leads to the same recipes.
    """
    copies = {path.relative_to(root): path for path in package_files(PACKAGES, root)}
    copies.update({Path(name): root / name for name in _ROOT_FILES if (root / name).is_file()})
    for pattern in ("requirements/*.lock", "requirements/*.txt", "docs/*.md"):
        copies.update({path.relative_to(root): path for path in sorted(root.glob(pattern))})
    configs = Path("configs") / config_dir.resolve().name
    for path in config_files(config_dir):
        copies[configs / path.relative_to(config_dir)] = path
    for relative, path in sorted(copies.items()):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / relative)
    if overrides:
        text = yaml.safe_dump({"overrides": list(overrides)}, allow_unicode=True, width=110)
        (target / configs / OVERRIDES_FILE).write_text(text, encoding="utf-8")
        copies[configs / OVERRIDES_FILE] = target / configs / OVERRIDES_FILE
    entries = hash_files(target, [target / relative for relative in copies])
    record = {"format": CODE_FORMAT, "commit": commit, "files": [entry.as_json() for entry in entries]}
    write_json(target / CODE_RECORD, record)
