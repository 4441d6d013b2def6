"""The job description that the launching process hands to its workers, as JSON."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.config import from_recipe
from train.settings import ExecutionConfig, PretrainConfig, RunConfig, SftConfig

STOP_REQUEST = ".stop-requested"
"""File in the run directory whose presence asks the job to write a checkpoint and stop after its step."""

OUTCOME = ".outcome.json"
"""File in the run directory in which a job says how it ended: finished, stopped, or failed with an error."""

LOCK = ".lock"
"""File in the run directory that a running job holds."""

CONFIG_TYPES: dict[str, type[RunConfig]] = {"pretrain": PretrainConfig, "sft": SftConfig}


@dataclass(frozen=True)
class TrainingJob:
    """One job: a whole training stage, or the replay of some of its steps.

    Attributes:
        stage: `pretrain` or `sft`.
        recipe: the resolved recipe of the stage.
        execution: the execution section of its config in the form of a recipe; it changes no result.
        corpus: the corpus directory.
        run_dir: where ledger, journal and checkpoints go.
        base_checkpoint: directory of the weights that fine-tuning starts from; empty for pretraining.
        parents: lineage, for the ledger's first record.
        branch_from: checkpoint directory of another run to go on from, as the recipe's `branch` says; else empty.
        replay_from: checkpoint directory to start a replay from; empty for a training job.
        last_step: last step to run; the recipe's last step for a training job.
        code: digest of the sources as the launching process sees them; empty where no process launched the job.
        libraries: versions of the libraries there.
        keep_checkpoints: a replay writes the checkpoints that it comes by, in place of their digests only.
        order_file: where the file that the recipe's `data.order` pins lies; not looked at where it pins none.
    """

    stage: str
    recipe: Json
    execution: Json
    corpus: str
    run_dir: str
    base_checkpoint: str
    parents: tuple[dict[str, Json], ...]
    branch_from: str
    replay_from: str
    last_step: int
    code: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    keep_checkpoints: bool = False
    order_file: str = ""

    @property
    def config(self) -> RunConfig:
        """Recipe and execution section as one typed config."""
        config = from_recipe(self.recipe, CONFIG_TYPES[self.stage])
        return config.model_copy(update={"execution": from_recipe(self.execution, ExecutionConfig)})

    def save(self, path: Path) -> None:
        """Write the job for the workers."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "TrainingJob":
        """Read what `save` wrote."""
        values = read_json(path)
        return cls(**{**values, "parents": tuple(values["parents"])})
