"""Accelerators as their makers publish them: peak rates, memory and power, for estimates before a run.

Peaks are those of dense matrix products; rates "with sparsity" are twice as high and of no use here. fp32 is the rate
without TF32, which this harness does not switch on. Rates that a device reaches in training are lower; the ratio (MFU)
is assumed by whoever plans and measured by whoever runs.

NVIDIA prints most rates with sparsity, and for boards of eight GPUs their sum: the figures here are halves, or eighths
(HGX B200: 36 PFLOPS in bf16 with sparsity, 600 TFLOPS in fp32 and 1.4 TB for eight).
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
        torch_name: what torch calls it; other builds of the same chip (PCIe, less memory) have other names and rates.
        source: document with these figures.
    """

    name: str
    flops_per_second: dict[str, float]
    memory_bytes: int
    watts: int
    torch_name: str
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device(
            "a100",
            {"bf16": 312e12, "fp32": 19.5e12},
            80 * 10**9,
            400,
            "NVIDIA A100-SXM4-80GB",
            "NVIDIA A100 Tensor Core GPU data sheet (nvidia-1758950-r4), A100 80GB SXM",
        ),
        Device(
            "h100",
            {"bf16": 989.4e12, "fp32": 66.9e12},
            80 * 10**9,
            700,
            "NVIDIA H100 80GB HBM3",
            "NVIDIA H100 Tensor Core GPU Architecture white paper and data sheet, H100 SXM5",
        ),
        Device(
            "h200",
            {"bf16": 989.4e12, "fp32": 66.9e12},
            141 * 10**9,
            700,
            "NVIDIA H200",
            "NVIDIA H200 Tensor Core GPU data sheet, H200 SXM (the chip of the H100)",
        ),
        Device(
            "b200",
            {"bf16": 2250e12, "fp32": 75e12},
            180 * 10**9,
            1000,
            "NVIDIA B200",
            "NVIDIA HGX platform specifications, HGX B200, one of eight; memory: DGX B200 user guide (1,440 GB)",
        ),
        Device(
            "l40s",
            {"bf16": 362.05e12, "fp32": 91.6e12},
            48 * 10**9,
            350,
            "NVIDIA L40S",
            "NVIDIA L40S data sheet",
        ),
        Device(
            "mi300x",
            {"bf16": 1307.4e12, "fp32": 163.4e12},
            192 * 10**9,
            750,
            "AMD Instinct MI300X",
            "AMD Instinct MI300X accelerator data sheet",
        ),
    )
}
"""Known accelerators by name."""

ASSUMED_MFU = 0.35
"""Share of the peak that a plan assumes unless told otherwise; published dense trainings report 0.3 to 0.5."""


def known_peak(torch_name: str, precision: str) -> float | None:
    """Peak of one device in FLOP/s by the name that torch gives it; None for any other device, CPUs among them."""
    device = next((device for device in DEVICES.values() if device.torch_name == torch_name), None)
    return device.flops_per_second[precision] if device else None


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
