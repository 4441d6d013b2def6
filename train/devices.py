"""Accelerators as their makers publish them: peak rates, memory and power, for estimates before a run.

Peaks are those of dense matrix products; rates "with sparsity" are twice as high and of no use here. fp32 is the rate
without TF32, which this harness does not switch on. Rates that a device reaches in training are lower; the ratio (MFU)
is assumed by whoever plans and measured by whoever runs.
"""

from dataclasses import dataclass

from provenance.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        flops_per_second: peak by precision of the recipe.
        memory_bytes: memory as sold; the driver keeps some of it.
        watts: thermal design power of the accelerator alone, without host, network and cooling.
        source: document with these figures.
    """

    name: str
    flops_per_second: dict[str, float]
    memory_bytes: int
    watts: int
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device("a100", {"bf16": 312e12, "fp32": 19.5e12}, 80 * 10**9, 400, "NVIDIA A100 80GB SXM data sheet"),
        Device("h100", {"bf16": 989e12, "fp32": 67e12}, 80 * 10**9, 700, "NVIDIA H100 SXM data sheet"),
        Device("h200", {"bf16": 989e12, "fp32": 67e12}, 141 * 10**9, 700, "NVIDIA H200 SXM data sheet"),
        Device("b200", {"bf16": 2250e12, "fp32": 75e12}, 180 * 10**9, 1000, "NVIDIA HGX B200 data sheet, one of eight"),
        Device("l40s", {"bf16": 362e12, "fp32": 91.6e12}, 48 * 10**9, 350, "NVIDIA L40S data sheet"),
        Device("mi300x", {"bf16": 1307e12, "fp32": 163e12}, 192 * 10**9, 750, "AMD Instinct MI300X data sheet"),
    )
}
"""Known accelerators by name."""

ASSUMED_MFU = 0.35
"""Share of the peak that a plan assumes unless told otherwise; published dense trainings report 0.3 to 0.5."""


def find_device(name: str) -> Device:
    """Return a known accelerator.

    Raises:
        ConfigError: for an unknown name; nothing is guessed from a similar one.
    """
    if name.lower() not in DEVICES:
        raise ConfigError(
            f"--device {name}",
            expected=f"one of {', '.join(DEVICES)}; for CPUs leave it out and give --tokens-per-second",
            where="command line",
        )
    return DEVICES[name.lower()]
