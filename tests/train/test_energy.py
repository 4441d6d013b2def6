import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from train import energy
from train.energy import EnergyMeter

ABSENT = Path("absent")


def make_powercap(root: Path, packages: int = 2) -> list[Path]:
    """The kernel's files for packages with a core and a memory domain below each; returns the counters."""
    counters = []
    for number in range(packages):
        names = {f"intel-rapl:{number}": f"package-{number}", f"intel-rapl:{number}:0": "core"}
        names[f"intel-rapl:{number}:1"] = "dram"
        for directory, name in names.items():
            path = root / directory
            path.mkdir(parents=True)
            (path / "name").write_text(f"{name}\n")
            (path / "max_energy_range_uj").write_text("1000000\n")
            (path / "energy_uj").write_text("900000\n")
            if name != "core":  # part of the package
                counters.append(path / "energy_uj")
    return counters


def test_rapl_counts_packages_and_memory_over_the_wrap_of_their_counters(tmp_path: Path) -> None:
    package, memory = make_powercap(tmp_path, packages=1)
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999999")  # the cores are part of the package
    meter = EnergyMeter(2, powercap=tmp_path).start()
    package.write_text("950000")
    assert meter.joules().joules == pytest.approx(0.05)
    package.write_text("100000")  # went round: 50,001 to the end and 100,000 from the beginning
    memory.write_text("900007")
    reading = meter.joules()
    assert (reading.kind, reading.source) == ("measured", "RAPL")
    assert reading.joules == pytest.approx(0.200008)


@pytest.mark.parametrize("damage", ["missing", "unreadable", "nonsense"])
def test_without_rapl_the_energy_is_called_an_estimate_with_its_assumption(tmp_path: Path, damage: str) -> None:
    counters = make_powercap(tmp_path) if damage != "missing" else []
    if damage == "unreadable":
        counters[0].unlink()
        counters[0].mkdir()  # cannot be read by anyone, root included
    if damage == "nonsense":
        counters[0].write_text("many\n")
    meter = EnergyMeter(4, watts_per_core=100.0, powercap=tmp_path).start()
    time.sleep(0.05)
    reading = meter.joules()
    assert (reading.kind, reading.source) == ("estimate", "4 cores x 100 W assumed")
    assert 20 <= reading.joules < 2000


class NvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """The calls of pynvml that the meter makes; counters in millijoules by UUID."""

    NVMLError = NvmlError

    def __init__(self, counters: dict[str, int], driver: bool = True) -> None:
        super().__init__(counters=counters, driver=driver)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError("no driver")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.counters:
            raise NvmlError("no such device")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return int(self.counters[handle])


@pytest.fixture
def no_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)


def test_nvml_counts_the_devices_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_powercap(tmp_path)
    nvml = FakeNvml({"GPU-a": 5_000, "GPU-b": 7_000, "GPU-other": 0})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = EnergyMeter(1, ["a", "GPU-b"], powercap=tmp_path).start()
    nvml.counters.update({"GPU-a": 6_000, "GPU-b": 9_500, "GPU-other": 10**9})
    reading = meter.joules()
    assert (reading.kind, reading.source, reading.joules) == ("measured", "RAPL + NVML", 3.5)
    del nvml.counters["GPU-b"]  # it fell off the bus
    assert meter.joules().kind == "estimate"


@pytest.mark.parametrize("why", ["not installed", "no driver", "no counter"])
@pytest.mark.usefixtures("no_nvidia_smi")
def test_without_nvml_devices_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    make_powercap(tmp_path)
    found = {"not installed": None, "no driver": FakeNvml({}, driver=False), "no counter": FakeNvml({})}[why]
    monkeypatch.setitem(sys.modules, "pynvml", found)
    reading = EnergyMeter(1, ["a", "b"], watts_per_device=300.0, powercap=tmp_path).start().joules()
    assert (reading.kind, reading.source) == ("estimate", "RAPL + 2 GPUs x 300 W assumed")


@pytest.mark.parametrize(
    ("output", "source"),
    [("400.00\n350.00\n", "at their power limit of 750 W together"), ("[N/A]\n[N/A]\n", "assumed"), ("", "assumed")],
)
def test_power_limits_come_from_nvidia_smi_where_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, source: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(energy.shutil, "which", lambda name: str(program))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading = EnergyMeter(1, ["a", "b"], powercap=ABSENT).start().joules()
    assert reading.kind == "estimate"
    assert source in reading.source
