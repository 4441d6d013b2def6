"""Programs are started without collections of garbage, and with the arguments that they were given."""

import gc
import sys
from pathlib import Path

import pytest

from provenance import program

MODULE = """
import gc, sys
collected = gc.isenabled()
def main():
    told.append((collected, gc.isenabled(), sys.argv[1:]))
told = []
"""


def test_a_program_is_imported_without_collections_and_runs_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_program.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["provenance.program", "large_program", "one", "two"])
    program.main()
    assert sys.modules["large_program"].told == [(False, True, ["one", "two"])]


def test_collections_go_on_where_an_import_fails() -> None:
    with pytest.raises(ModuleNotFoundError), program.importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
