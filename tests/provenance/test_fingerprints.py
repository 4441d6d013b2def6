import shutil

import pytest

import provenance
from provenance.canonical import canonical_json, write_json
from provenance.digests import Parent, hash_files
from provenance.environment import environment_record, platform_record
from provenance.errors import CodeError
from provenance.fingerprint import (
    CODE_RECORD,
    PACKAGES,
    CodeIdentity,
    code_identity,
    library_versions,
    package_files,
    project_root,
    sources_digest,
    stage_fingerprint,
)


@pytest.fixture
def tree(own_project_copy):
    return own_project_copy


def test_editing_a_docstring_of_a_package_changes_its_digest_and_those_above(tree):
    lower, upper = ("provenance", "data_recipes"), ("provenance", "data_recipes", "train")
    before = [sources_digest(packages, tree) for packages in (("provenance",), lower, upper)]
    path = tree / "data_recipes" / "document.py"
    path.write_text(path.read_text().replace('"""The document:', '"""A document:', 1))
    after = [sources_digest(packages, tree) for packages in (("provenance",), lower, upper)]
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]


def test_editing_readme_docs_or_tests_changes_nothing(tree):
    before = code_identity(tree)
    (tree / "README.md").write_text("another text\n")
    (tree / "docs" / "formats.md").write_text("another text\n")
    (tree / "tests").mkdir()
    (tree / "tests" / "test_new.py").write_text("")
    after = code_identity(tree)
    assert after.packages_digest == before.packages_digest
    assert not after.dirty


def test_caches_are_no_sources(tree):
    before = sources_digest(PACKAGES, tree)
    (tree / "train" / "__pycache__").mkdir()
    (tree / "train" / "__pycache__" / "x.py").write_text("")
    (tree / "train" / "x.pyc").write_bytes(b"")
    assert sources_digest(PACKAGES, tree) == before


def test_renaming_a_module_changes_the_digest(tree):
    before = sources_digest(["release"], tree)
    shutil.move(tree / "release" / "layout.py", tree / "release" / "layouts.py")
    assert sources_digest(["release"], tree) != before


def test_a_changed_or_new_package_file_makes_the_tree_dirty(tree):
    assert not code_identity(tree).dirty
    (tree / "train" / "new_module.py").write_text('"""New."""\n')
    assert code_identity(tree).dirty


def test_a_released_tree_names_its_commit_and_notices_changes(tree):
    shutil.rmtree(tree / ".git")
    files = [entry.as_json() for entry in hash_files(tree, package_files(PACKAGES, tree))]
    write_json(tree / CODE_RECORD, {"format": "openwright-code/1", "commit": "a" * 40, "files": files})
    clean = code_identity(tree)
    assert clean == CodeIdentity("a" * 40, False, sources_digest(PACKAGES, tree))
    path = tree / "eval" / "__init__.py"
    text = path.read_text()
    path.write_text(text + "# changed\n")
    assert code_identity(tree).dirty
    path.write_text(text)
    (tree / "eval" / "extra.py").write_text("")
    assert code_identity(tree).dirty
    (tree / "eval" / "extra.py").unlink()
    path.unlink()
    assert code_identity(tree).dirty


def test_a_tree_that_is_neither_is_refused(tmp_path):
    with pytest.raises(CodeError, match=r"CODE\.json"):
        code_identity(tmp_path)


def test_a_fingerprint_changes_with_every_input(monkeypatch):
    parent = Parent("corpus", "tiny/corpus", "a" * 64)
    base = ("pretrain", {"seed": 1}, [parent], ["provenance"], ["numpy"])
    first = stage_fingerprint(*base)
    assert first == stage_fingerprint(*base)
    others = [
        ("sft", *base[1:]),
        (base[0], {"seed": 2}, *base[2:]),
        (*base[:2], [Parent("corpus", "tiny/corpus", "b" * 64)], *base[3:]),
        (*base[:3], ["provenance", "data_recipes"], base[4]),
        (*base[:4], ["numpy", "pyarrow"]),
    ]
    found = [stage_fingerprint(*other) for other in others]
    monkeypatch.setattr("provenance.fingerprint.library_versions", lambda libraries: {"numpy": "0.0.1"})
    found.append(stage_fingerprint(*base))
    assert first not in found
    assert len(set(found)) == len(found)


def test_library_versions_are_those_installed_and_never_guessed():
    import numpy

    assert library_versions(["numpy"]) == {"numpy": numpy.__version__}
    with pytest.raises(CodeError, match="no-such-library"):
        library_versions(["no-such-library"])


def test_the_project_root_holds_the_packages():
    assert all((project_root() / package).is_dir() for package in PACKAGES)
    assert provenance.__file__.startswith(str(project_root()))


def test_environment_copies_no_foreign_variable(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = canonical_json(environment_record()).decode()
    assert "hunter2" not in text
    assert "SECRET_TOKEN" not in text
    assert platform_record()["variables"]["OMP_NUM_THREADS"] == "1"


def test_the_platform_digest_changes_with_a_variable_that_changes_bits(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    before = platform_record()["digest"]
    assert platform_record()["digest"] == before
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert platform_record()["digest"] != before


def test_the_environment_lists_distributions_with_their_record():
    numpy = environment_record()["distributions"]["numpy"]
    assert len(numpy["record_sha256"]) == 64
