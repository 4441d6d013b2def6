"""Where the final weights of a stage lie that makes a model: a training run, or an average of checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import read_json
from provenance.errors import ArtifactError

AVERAGE = "average"
"""The stage that makes a model of checkpoints of others; all others that make one train."""

RUN_RECORD = "run.json"
AVERAGE_RECORD = "average.json"


@dataclass(frozen=True)
class MadeModel:
    """What the record of a stage says of the model that it made.

    Attributes:
        path: directory of the weights, relative to the artifact.
        weights_digest: their digest `state/1`.
        step: the last step of a run; None for an average, which no step made.
    """

    model_type: str
    num_parameters: int
    path: str
    weights_digest: str
    step: int | None


def made_model(records: Path) -> MadeModel:
    """Read what a stage made.

    Args:
        records: directory of the artifact, or of the stage's records in a bundle.

    Raises:
        ArtifactError: when no record is there.
    """
    for name in (RUN_RECORD, AVERAGE_RECORD):
        if (records / name).is_file():
            values = read_json(records / name)
            final = values["final"]
            return MadeModel(
                model_type=values["model_type"],
                num_parameters=values["num_parameters"],
                path=final["path"],
                weights_digest=final["weights_digest"],
                step=final.get("step"),
            )
    raise ArtifactError(
        f"neither {RUN_RECORD} nor {AVERAGE_RECORD}",
        expected="the records of a stage that makes a model",
        where=str(records),
        next_command="openwright run CONFIG_DIR",
    )
