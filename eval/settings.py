"""Config of the evaluation stage: `eval.yaml`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from provenance.config import Config


class BitsPerByteConfig(Config):
    """Bits per byte on held-out documents.

    Attributes:
        max_documents: how many held-out documents are read; they are drawn by digest.
        max_characters: each document is cut to this many characters.
        min_characters: shorter documents are left out.
    """

    max_documents: int = Field(default=60, gt=0)
    max_characters: int = Field(default=1500, gt=0)
    min_characters: int = Field(default=200, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters at most max_characters")
        return self


class DocstringChoiceConfig(Config):
    """Four-way choice of the docstring summary that belongs to a signature.

    Attributes:
        max_items: how many questions are asked; they are drawn by digest.
        num_fewshot: solved questions shown first; they are never asked.
        chat_models: models that are asked in chat format, with the chat template of their tokenizer.
        min_summary_characters: shorter summaries are not used.
        max_summary_characters: longer summaries are not used.
    """

    max_items: int = Field(default=200, gt=0)
    num_fewshot: int = Field(default=0, ge=0)
    chat_models: list[str] = Field(default_factory=lambda: ["sft"])
    min_summary_characters: int = Field(default=15, gt=0)
    max_summary_characters: int = Field(default=160, gt=0)


class ClozeConfig(Config):
    """Four-way choice of the last word of a held-out sentence.

    Attributes:
        max_items: how many sentences are asked; they are drawn by digest.
        num_fewshot: solved sentences shown first; they are never asked.
        context_characters: how much text before the word is shown.
        max_items_per_document: so that no long document dominates.
    """

    max_items: int = Field(default=200, gt=0)
    num_fewshot: int = Field(default=0, ge=0)
    context_characters: int = Field(default=240, gt=0)
    max_items_per_document: int = Field(default=4, gt=0)


class IntervalConfig(Config):
    """How the 95% intervals of bits per byte are made (accuracies have Wilson intervals).

    Attributes:
        num_resamples: bootstrap resamples of whole documents.
        seed: seed of the bootstrap.
    """

    num_resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)


class BaselinesConfig(Config):
    """The models without a neural network that bits per byte are compared with.

    Attributes:
        max_training_tokens: training tokens that the unigram and trigram models count; where the corpus has more,
            each shard gives the same share from its start.
        heldback_share: one in this many training tokens chooses the interpolation weights.
    """

    max_training_tokens: int = Field(default=20_000_000, gt=0)
    heldback_share: int = Field(default=20, ge=2)


class ExecutionConfig(Config):
    """What must not change results.

    Attributes:
        num_processes: models evaluated at the same time; None for one per core, two at most.
    """

    num_processes: int | None = Field(default=None, gt=0)


class EvalConfig(Config):
    """An evaluation: which models, which tasks, how.

    Attributes:
        models: stages whose final models are evaluated, in the order of the table.
        seed: decides which held-out documents and items are drawn.
        context_tokens: longest input in tokens; the length the models were trained with.
        batch_size: requests per forward pass; part of the recipe because it can change bits.
        dtype: precision of weights and activations.
        threads_per_process: threads of each model's process; part of the recipe because they can change bits.
        min_items: a task with fewer items than this is an error, not a number.
        forget: ids of held-out documents that were taken down: no item is made of them.
        docstring_choice, cloze: None leaves the task out, as for a corpus of rows, in which no function is documented.
    """

    models: list[str] = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    context_tokens: int = Field(gt=1)
    batch_size: int = Field(default=16, gt=0)
    dtype: Literal["float32"] = "float32"
    threads_per_process: int = Field(default=1, gt=0)
    min_items: int = Field(default=20, gt=0)
    forget: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default=[])
    bits_per_byte: BitsPerByteConfig = BitsPerByteConfig()
    docstring_choice: DocstringChoiceConfig | None = DocstringChoiceConfig()
    cloze: ClozeConfig | None = ClozeConfig()
    intervals: IntervalConfig = IntervalConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.models)) != len(self.models):
            raise ValueError("each model once")
        return self
