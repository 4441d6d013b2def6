"""Forms of the records of a bundle beyond those that `verify.py` knows: the fields that commands read, by type."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from provenance.canonical import Json

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]
_Number = Annotated[str, Field(pattern=r"^-?0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}$")]
_Pair = Annotated[list[int], Field(min_length=2, max_length=2)]


class RecordForm(BaseModel):
    """Fields that are read; others may stand beside them."""

    model_config = ConfigDict(strict=True)


class VersionForm(RecordForm):
    """A distribution of an environment."""

    version: str


class PlatformForm(RecordForm):
    """A platform record."""

    digest: str | None = None
    variables: dict[str, Json] = {}


class EnvironmentForm(RecordForm):
    """`environment.json`."""

    platform: PlatformForm
    python: str | None = None
    distributions: dict[str, VersionForm] = {}


class IdentityForm(RecordForm):
    """`identity.json`: the source files of a run by path."""

    sources: dict[str, str]


class NotedForm(RecordForm):
    """A record of a journal that tells a layout of processes."""

    step: _Count = 0
    num_processes: _Positive | None = None
    shard_size: _Positive = 1
    tensor_size: _Positive = 1
    context_size: _Positive = 1


class LedgerPlaceForm(RecordForm):
    """The place of a checkpoint in its ledger."""

    num_records: _Count


class CheckpointForm(RecordForm):
    """`checkpoint.json`."""

    format: Literal["openwright-checkpoint/1"]
    kind: Literal["full", "weights"]
    step: _Count
    ledger: LedgerPlaceForm


class BranchForm(RecordForm):
    """The run that a branch went on from."""

    step: _Positive
    ledger_head: str


class HeldOutForm(RecordForm):
    """The data section of a recipe."""

    heldout_split: str
    heldout_windows: int


class RecipeForm(RecordForm):
    """What is read of a recipe besides the fields that `verify.py` knows."""

    data: HeldOutForm
    branch: BranchForm | None = None
    skip_steps: list[_Pair]


class SourceForm(RecordForm):
    """An entry of `sources.lock`."""

    name: str
    type: str
    obtain: str | None = None


class EvaluationSetForm(RecordForm):
    """What `sources.lock` says of an evaluation set."""

    name: str
    path: str
    sha256: str
    shipping: str
    obtain: str


class LockForm(RecordForm):
    """`sources.lock`."""

    sources: list[SourceForm]
    evaluation_sets: list[EvaluationSetForm] = []


class ComponentsForm(RecordForm):
    """`components.json`: what the provider declares."""

    name: str
    version: str
    dev: bool
    stages: list[str]
    shipping: dict[str, str]


class StepForm(RecordForm):
    """A step of `corpus.json`."""

    name: str
    parameters: Json


class CorpusForm(RecordForm):
    """`corpus.json`."""

    steps: list[StepForm]


class CopyForm(RecordForm):
    """A copy of a token file with blank stretches."""

    ranges: list[_Pair]


class BlankedForm(RecordForm):
    """What is blank in token files."""

    files: list[CopyForm]


class TombstoneForm(RecordForm):
    """A document that was asked to be forgotten."""

    document_id: str
    text_sha256: str
    date: str
    reason: str


class TombstonesForm(RecordForm):
    """`tombstones.json`."""

    tombstones: list[TombstoneForm]
    blanked: BlankedForm


class CodeForm(RecordForm):
    """`CODE.json`."""

    commit: str


class ReleaseForm(RecordForm):
    """`release.json`, of the artifact that holds a bundle."""

    bundle: str
    content_digest: str


class ScoreForm(RecordForm):
    """A row of an evaluation table."""

    model: str
    task: str
    metric: str
    value: _Number
    low: _Number
    high: _Number


class ResultsForm(RecordForm):
    """`results.json` of an evaluation."""

    rows: list[ScoreForm]


class LedgerStartForm(RecordForm):
    """What comparing runs reads of a ledger's first record."""

    stage: str


class LedgerStepForm(RecordForm):
    """What it reads of a step; all other fields are compared whatever they hold."""

    step: _Positive
    loss: _Number
    tokens_by_source: dict[str, _Count]


class LedgerEvaluationForm(RecordForm):
    """What it reads of held-out text."""

    step: _Count
    bits_per_byte: _Number


class LedgerCheckpointForm(RecordForm):
    """What it reads of a checkpoint."""

    step: _Count
    weights_digest: str


LEDGER_FORMS: dict[str, type[RecordForm]] = {
    "start": LedgerStartForm,
    "step": LedgerStepForm,
    "evaluation": LedgerEvaluationForm,
    "checkpoint": LedgerCheckpointForm,
}
"""By kind, what comparing runs reads of a ledger's records."""
