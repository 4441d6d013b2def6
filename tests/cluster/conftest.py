"""A Slurm of their own for the tests of one module."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_slurm import LoopbackSlurm, missing_programs


@pytest.fixture(scope="module")
def slurm(request: pytest.FixtureRequest) -> Iterator[LoopbackSlurm]:
    missing = missing_programs()
    if missing:
        reason = f"not installed here: {', '.join(missing)} (Debian packages slurm-wlm and munge)"
        if "slurm" in str(request.config.getoption("-m")):
            pytest.fail(reason)  # it was asked for by name, as the whole check of the project does
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory:
        cluster = LoopbackSlurm(Path(directory))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
