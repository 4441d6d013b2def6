import os
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from provenance.errors import ConfigError
from train.trackers import check_installed, start_trackers, tracker_dir


class Remembered(GeneralTracker):
    """A tracker that keeps what accelerate hands it."""

    name = "remembered"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> object:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.logged.append((step, values))


def test_numbers_of_a_step_reach_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "elsewhere")
    remembered = Remembered()
    log = start_trackers(Accelerator(cpu=True, log_with=remembered), "pretrain", tmp_path / ".work-0123456789ab")
    log(3, {"loss": 1.5})
    assert remembered.logged == [(3, {"loss": 1.5})]
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "trackers-0123456789ab")


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    check_installed([])
    with pytest.raises(ConfigError, match="no_such_tracker, which is not installed"):
        check_installed(["no_such_tracker"])


def test_mirrors_lie_beside_the_artifact_and_not_in_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "pretrain" / ".work-0123456789ab"
    assert tracker_dir(run_dir) == tmp_path / "pretrain" / "trackers-0123456789ab"
