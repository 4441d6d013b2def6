"""What `openwright --version` prints."""

import tomllib

from provenance.fingerprint import code_identity, project_root


def version_text() -> str:
    """Version and commit of the source tree that runs: a bundle names the commit, and a bug report wants both.

    Raises:
        CodeError: when the tree is neither a git checkout nor a released source tree.
    """
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    code = code_identity()
    changes = " with uncommitted changes" if code.dirty else ""
    return f"openwright {project['version']}, commit {code.commit}{changes}"
