"""Observed environment: platform fingerprint, libraries, machine. No variable is copied wholesale (secrets)."""

import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from provenance.canonical import Json
from provenance.digests import tagged_digest

RESULT_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
)
"""Variables of libraries that can change bits; they are recorded, and only they."""


def platform_record() -> dict[str, Json]:
    """What decides floating-point bits on this machine, with its digest (`platform/1`).

    torch is asked only where it is already imported: a stage without torch has no need to load it.
    """
    record: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_model": _cpu_model(),
        "cpu_flags_sha256": _cpu_flags_digest(),
        "variables": {name: os.environ[name] for name in RESULT_VARIABLES if name in os.environ},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        record["torch"] = torch.__version__
        record["torch_cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        record["torch_num_threads"] = torch.get_num_threads()
        record["torch_build_sha256"] = hashlib.sha256(torch.__config__.show().encode()).hexdigest()
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        record["devices"] = sorted(names)  # kinds, and not how many: equal bits are promised at any number
    return {**record, "digest": tagged_digest("platform/1", record)}


def environment_record() -> dict[str, Json]:
    """Platform, Python, kernel and every installed distribution with the digest of its wheel record."""
    return {
        "format": "openwright-environment/1",
        "platform": platform_record(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "num_cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "distributions": _distributions(),
    }


def _distributions() -> dict[str, Json]:
    """Version of each distribution and the sha256 of its RECORD, which lists the digest of every file in it."""
    found = {}
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD") or ""
        lines = sorted(line for line in record.splitlines() if "__pycache__" not in line)
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest() if record else ""
        found[distribution.metadata["Name"]] = {"version": distribution.version, "record_sha256": digest}
    return dict(sorted(found.items()))


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpu_flags_digest() -> str:
    return hashlib.sha256(" ".join(sorted(_cpuinfo("flags").split())).encode()).hexdigest()
