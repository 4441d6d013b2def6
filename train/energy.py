"""Energy of a job on one machine: measured where the machine tells, else an estimate that is called one.

CPUs tell through RAPL (the kernel's powercap files, which many systems let only root read), GPUs through NVML. What
is missing is filled by time times a stated power. One meter serves one machine: RAPL counts everything that runs on it.
"""

import importlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

POWERCAP = Path("/sys/class/powercap")

WATTS_PER_CORE = 5.0
"""Assumed for a core under load where RAPL cannot be read: server CPUs state 200 to 400 W for 64 to 96 cores."""

WATTS_PER_DEVICE = 700.0
"""Assumed for a GPU whose power limit cannot be asked for: the thermal design power of an H100 SXM."""

_NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True)
class EnergyReading:
    """Energy since the meter was started.

    Attributes:
        kind: `measured` only when every part was measured.
        source: what the parts came from, with the assumptions of an estimate.
        joules: the energy.
    """

    kind: Literal["measured", "estimate"]
    source: str
    joules: float


@dataclass
class _RaplDomain:
    """One counter of microjoules, which begins anew at its range."""

    path: Path
    range_microjoules: int
    last: int
    total: int = 0

    def read(self) -> None:
        """Add what was used since the last time; at least once in every round of the counter."""
        now = int((self.path / "energy_uj").read_text())
        self.total += (now - self.last) % (self.range_microjoules + 1)
        self.last = now


class EnergyMeter:
    """Counts the energy of one machine's part of a job.

    Args:
        num_cores: cores that the job uses here, for the estimate.
        device_uuids: GPUs that it uses here, as torch names them (`torch.cuda.get_device_properties(i).uuid`).
        watts_per_core: assumed where RAPL cannot be read.
        watts_per_device: assumed where neither NVML nor the power limit can be read.
        powercap: the kernel's powercap directory.
    """

    def __init__(
        self,
        num_cores: int,
        device_uuids: Sequence[str] = (),
        *,
        watts_per_core: float = WATTS_PER_CORE,
        watts_per_device: float = WATTS_PER_DEVICE,
        powercap: Path = POWERCAP,
    ) -> None:
        self.num_cores = num_cores
        self.device_uuids = tuple(f"GPU-{uuid.removeprefix('GPU-')}" for uuid in device_uuids)
        self.watts_per_core = watts_per_core
        self.watts_per_device = watts_per_device
        self.powercap = powercap
        self._domains: list[_RaplDomain] = []
        self._nvml: Any = None
        self._device_start_millijoules = 0
        self._device_power: tuple[float, str] | None = None
        self._started = time.monotonic()

    def start(self) -> "EnergyMeter":
        """Begin to count."""
        self._domains = _rapl_domains(self.powercap)
        self._nvml = _nvml() if self.device_uuids else None
        self._device_start_millijoules = self._device_millijoules() or 0
        self._started = time.monotonic()
        return self

    def joules(self) -> EnergyReading:
        """Energy since `start`. With RAPL, call it at least every few minutes: its counters begin anew."""
        seconds = time.monotonic() - self._started
        parts = [self._cpu_part(seconds)]
        if self.device_uuids:
            parts.append(self._device_part(seconds))
        measured = all(part.kind == "measured" for part in parts)
        return EnergyReading(
            "measured" if measured else "estimate",
            " + ".join(part.source for part in parts),
            sum(part.joules for part in parts),
        )

    def _cpu_part(self, seconds: float) -> EnergyReading:
        if not self._domains:
            joules = seconds * self.num_cores * self.watts_per_core
            return EnergyReading("estimate", f"{self.num_cores} cores x {self.watts_per_core:g} W assumed", joules)
        for domain in self._domains:
            domain.read()
        return EnergyReading("measured", "RAPL", sum(domain.total for domain in self._domains) / 1e6)

    def _device_part(self, seconds: float) -> EnergyReading:
        counted = self._device_millijoules()
        if counted is not None:
            return EnergyReading("measured", "NVML", (counted - self._device_start_millijoules) / 1e3)
        if self._device_power is None:
            self._device_power = _power_limit(self.device_uuids, self.watts_per_device)
        watts, source = self._device_power
        return EnergyReading("estimate", source, seconds * watts)

    def _device_millijoules(self) -> int | None:
        """The devices' counters together; None, from now on, where NVML or a device has none."""
        if self._nvml is None:
            return None
        try:
            handles = [self._nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in self.device_uuids]
            return sum(int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles)
        except self._nvml.NVMLError:
            self._nvml = None
            return None


def _rapl_domains(powercap: Path) -> list[_RaplDomain]:
    """Packages and their memory; empty where there are none or they may not be read."""
    domains = []
    try:
        for path in sorted(powercap.glob("intel-rapl:*")):  # AMD's counters have this name too
            name = (path / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                domain = _RaplDomain(path, int((path / "max_energy_range_uj").read_text()), 0)
                domain.last = int((path / "energy_uj").read_text())
                domains.append(domain)
    except (OSError, ValueError):
        return []
    return domains


def _nvml() -> Any:
    """NVML's Python binding, ready to be asked; None where it is not installed or finds no driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _power_limit(device_uuids: Sequence[str], assumed_watts: float) -> tuple[float, str]:
    """Power of devices together, from their limits as `nvidia-smi` tells them, or as assumed."""
    num_devices = len(device_uuids)
    program = shutil.which("nvidia-smi")
    if program is not None:
        try:
            done = subprocess.run(
                [program, "--query-gpu=power.limit", "--format=csv,noheader,nounits", f"--id={','.join(device_uuids)}"],
                capture_output=True,
                text=True,
                check=True,
                timeout=_NVIDIA_SMI_SECONDS,
            )
            limits = [float(line) for line in done.stdout.splitlines() if line.strip()]
            if len(limits) == num_devices:
                return sum(limits), f"{num_devices} GPUs at their power limit of {sum(limits):g} W together"
        except (OSError, ValueError, subprocess.SubprocessError):
            pass  # the assumption below says so itself
    return num_devices * assumed_watts, f"{num_devices} GPUs x {assumed_watts:g} W assumed"
