"""Learning rate as a pure function of the step."""

import math

from train.settings import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, peak: float, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 1): linear warm-up, then down as the schedule says.

    A decay would reach `peak * final_fraction` one step after the last, so that the last step still learns.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    decay_steps = schedule.decay_steps if schedule.name == "wsd" else num_steps - schedule.warmup_steps
    steps_left = num_steps - step
    if steps_left >= decay_steps:
        return peak
    remaining = (steps_left + 1) / (decay_steps + 1)
    if schedule.name == "cosine":
        remaining = (1.0 - math.cos(math.pi * remaining)) / 2.0
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)
