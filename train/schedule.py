"""Learning rate as a pure function of the step."""

from train.settings import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, peak: float, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 1): linear warm-up, constant, linear decay.

    The decay would reach `peak * final_fraction` one step after the last, so that the last step still learns.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    steps_left = num_steps - step
    if steps_left >= schedule.decay_steps:
        return peak
    remaining = (steps_left + 1) / (schedule.decay_steps + 1)
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)
