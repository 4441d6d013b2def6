"""A sweep: one release with several seeds, each the same config with another `<stage>.seed`, as `--set` sets it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from provenance.errors import ConfigError

MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Sweep:
    """The seeds of a sweep, and the training stages that take them.

    Attributes:
        seeds: each once, in ascending order.
        stages: training stages whose seed changes; the seeds of all others stay what their configs say.
    """

    seeds: tuple[int, ...]
    stages: tuple[str, ...]

    def overrides(self, seed: int) -> tuple[str, ...]:
        """What `--set` would be given for one seed."""
        return tuple(f"{stage}.seed={seed}" for stage in self.stages)

    def split(self, stages: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Stages that all seeds share, and those made once per seed: from the first whose seed changes."""
        first = next((place for place, stage in enumerate(stages) if stage in self.stages), len(stages))
        return tuple(stages[:first]), tuple(stages[first:])

    def array(self) -> str:
        """The seeds as sbatch takes the numbers of a job array: `1-8` or `1,2,5`."""
        first, last = self.seeds[0], self.seeds[-1]
        if last - first + 1 == len(self.seeds) > 1:
            return f"{first}-{last}"
        return ",".join(map(str, self.seeds))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `A:B` (both ends included), `1,2,5` or a mixture of both.

    Raises:
        ConfigError: for other text, an empty range, a seed named twice, or more than `MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,15})(?::([0-9]{1,15}))?", part)
        if not found:
            raise _wrong(text, "A:B with both ends, or numbers with commas between them, such as 1:4,9")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise _wrong(text, f"a range that is not empty; {part} ends before it begins")
        if len(seeds) + last - first + 1 > MOST_SEEDS:
            raise _wrong(text, f"at most {MOST_SEEDS:,} seeds")
        seeds += range(first, last + 1)
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise _wrong(text, f"each seed once; {twice[0]} is named twice")
    return tuple(sorted(seeds))


@dataclass(frozen=True)
class SeedOptions:
    """What a command line says of a sweep.

    Attributes:
        seeds: text of `--seeds`.
        seed_of: texts of `--seed-of`; empty for all training stages.
    """

    seeds: str
    seed_of: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The options as they are typed."""
        return ["--seeds", self.seeds, *(word for stage in self.seed_of for word in ("--seed-of", stage))]

    def sweep(self, order: Sequence[str], stages: Sequence[str]) -> Sweep:
        """The sweep that is meant.

        Args:
            order: all stages of the release.
            stages: those that are to run now.

        Raises:
            ConfigError: for seeds that are wrong, for stages that do not train, or when none of them is to run.
        """
        from openwright.configs import (
            TRAINING_STAGES,  # only now, because the command line needs this module for --help
        )

        training = [stage for stage in TRAINING_STAGES if stage in order]
        seeded = tuple(stage for stage in training if not self.seed_of or stage in self.seed_of)
        wrong = [stage for stage in self.seed_of if stage not in training]
        if wrong or not set(seeded).intersection(stages):
            raise ConfigError(
                f"--seed-of {wrong[0]}" if wrong else f"none of {', '.join(stages)} takes its seed from --seeds",
                expected=f"stages of this release that train: {', '.join(training) or 'there are none'}",
                where="command line",
                next_command="the same command with another --seed-of, or without --seeds",
            )
        return Sweep(parse_seeds(self.seeds), seeded)


def _wrong(text: str, expected: str) -> ConfigError:
    return ConfigError(
        f"--seeds {text}", expected=expected, where="command line", next_command="the same command with other --seeds"
    )
