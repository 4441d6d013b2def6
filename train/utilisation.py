"""FLOPs of a run's steps, and the share of the devices' peak that they reach (MFU), for the journal.

The count is that of `openwright plan` (`train.accounting`): what the mathematics asks for, nothing twice. MFU is that
count per second over the published peak of all devices; where no peak is known, as on CPUs, none is claimed.
"""

from collections.abc import Mapping
from typing import Any

import torch

from provenance.canonical import Json, hex_float
from provenance.errors import ConfigError
from train.accounting import BACKWARD_PER_FORWARD, ModelShape, forward_flops, model_shape
from train.devices import known_peak


class Utilisation:
    """Counts FLOPs of steps.

    Args:
        model: the transformers model; one without a list of layers has no count.
        precision: of the recipe; the peak depends on it.
        device: what this process computes on; all processes have one such device each.
        num_devices: processes in all.
    """

    def __init__(self, model: Any, precision: str, device: torch.device, num_devices: int) -> None:
        self._shape = _shape_or_none(model)
        self._device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        peak = known_peak(self._device, precision)
        self._peak = None if peak is None else peak * num_devices

    def of_devices(self) -> dict[str, Json]:
        """What the journal says when a process begins: the device, and the peak of all of them, null if unknown."""
        return {
            "device": self._device,
            "peak_flops_per_second": None if self._peak is None else hex_float(self._peak),
        }

    def of_step(self, num_sequences: int, window_tokens: int, seconds: float) -> Mapping[str, Json]:
        """What the journal says of a step: its FLOPs, forward and backward, and the MFU where the peak is known."""
        if self._shape is None:
            return {}
        flops = num_sequences * (1 + BACKWARD_PER_FORWARD) * forward_flops(self._shape, window_tokens)
        if self._peak is None:
            return {"flops": flops}
        return {"flops": flops, "mfu": hex_float(flops / seconds / self._peak)}


def _shape_or_none(model: Any) -> ModelShape | None:
    try:
        return model_shape(model)
    except ConfigError:
        return None
