"""The loss module: chunks against whole logits and float64, z-loss against autograd, documents apart."""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
import torch.nn.functional as F  # noqa: N812
from test_layouts import MOE

from train.batch import read_batch
from train.layout import Layout, World
from train.lm_loss import LanguageModelLoss, document_positions
from train.loop import TrainingRun
from train.model import build_model
from train.settings import LossConfig, ModelConfig

VOCAB, EOS = 97, 0
SHAPE = {"hidden_size": 32, "intermediate_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "olmo3": {**SHAPE, **HEADS, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "llama": {**SHAPE, **HEADS},
    "qwen3": {**SHAPE, **HEADS, "head_dim": 8},
    "smollm3": {**SHAPE, **HEADS, "no_rope_layers": [1, 0]},
    "deepseek_v3": {**MOE["fields"], "attention_dropout": 0.0},
}
LENGTHS = (9, 1, 5, 8)
"""Documents of the packed window, their ends included."""


def module(name: str, loss: LossConfig | None = None, *, masked: bool = False, dtype: Any = torch.float32) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = ModelConfig(model_type=name, fields=MODELS[name])
    model = build_model(config, vocab_size=VOCAB, eos_id=EOS, pad_id=1, window_tokens=24).to(dtype)
    return LanguageModelLoss(model, loss or LossConfig(), EOS if masked else None)


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    """Three windows with some trained tokens each."""
    draw = torch.Generator().manual_seed(5)
    ids_BT = torch.randint(2, VOCAB, (3, 25), generator=draw)
    mask_BT = torch.rand(3, 25, generator=draw) < 0.7
    mask_BT[:, 0] = False
    return ids_BT, mask_BT


def gradients(loss_module: Any, scale: float = 1 / 50) -> tuple[float, dict[str, torch.Tensor]]:
    objective, loss_sum = loss_module(*windows(), scale)
    objective.backward()
    return float(loss_sum), {name: parameter.grad for name, parameter in loss_module.named_parameters()}


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest distance of a gradient's element, relative to the tensor's largest."""
    return max(
        float((found[name].double() - expected[name].double()).abs().max() / expected[name].double().abs().max())
        for name in expected
    )


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_chunks_equal_whole_logits_within_rounding(chunk_tokens: int, z_loss: float) -> None:
    """2e-6 is some 20 roundings of fp32 in sums of 50 terms; float64 is no nearer to one of them than to the other."""
    whole_loss, whole = gradients(module("llama", LossConfig(z_loss=z_loss)))
    chunk_loss, chunks = gradients(module("llama", LossConfig(z_loss=z_loss, chunk_tokens=chunk_tokens)))
    true_loss, true = gradients(module("llama", LossConfig(z_loss=z_loss), dtype=torch.float64))
    assert chunk_loss == pytest.approx(whole_loss, rel=1e-6)
    assert chunk_loss == pytest.approx(true_loss, rel=1e-6)
    assert worst(chunks, whole) < 2e-6
    assert worst(chunks, true) < 2e-6


def test_the_loss_is_the_plain_sum_over_trained_tokens() -> None:
    loss_module = module("llama")
    ids_BT, mask_BT = windows()
    logits_BTV = loss_module.model(input_ids=ids_BT[:, :-1]).logits
    losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    for loss in (LossConfig(), LossConfig(chunk_tokens=7), LossConfig(chunk_tokens=7, z_loss=0.5)):
        _, loss_sum = module("llama", loss)(ids_BT, mask_BT, 1.0)
        assert float(loss_sum) == pytest.approx(float(losses_BT[mask_BT[:, 1:]].detach().sum()), rel=1e-6)


def test_z_loss_has_the_gradient_that_autograd_finds() -> None:
    loss_module = module("llama")
    ids_BT, mask_BT = windows()
    trained_BT = mask_BT[:, 1:]
    logits_NV = loss_module.model(input_ids=ids_BT[:, :-1]).logits[trained_BT]
    squares = torch.logsumexp(logits_NV, dim=-1).square().sum()
    objective = (F.cross_entropy(logits_NV, ids_BT[:, 1:][trained_BT], reduction="sum") + 0.3 * squares) / 50
    objective.backward()
    expected = {name: parameter.grad for name, parameter in loss_module.named_parameters()}
    for loss in (LossConfig(z_loss=0.3), LossConfig(z_loss=0.3, chunk_tokens=7)):
        assert worst(gradients(module("llama", loss))[1], expected) < 2e-6
    assert worst(gradients(module("llama"))[1], expected) > 1e-2  # without z-loss they are others


def test_windows_without_trained_tokens_have_no_loss() -> None:
    ids_BT, mask_BT = windows()
    for loss in (LossConfig(z_loss=0.1), LossConfig(chunk_tokens=7)):
        loss_module = module("llama", loss)
        objective, loss_sum = loss_module(ids_BT, mask_BT & False, 1.0)
        objective.backward()
        assert float(loss_sum) == 0.0
        assert all(not p.grad.any() for p in loss_module.parameters() if p.grad is not None)


# ---- documents apart ------------------------------------------------------------------------------------------------


def packed_window() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A window of several documents, and the documents; each ends with its end-of-text token."""
    draw = torch.Generator().manual_seed(8)
    documents = []
    for length in LENGTHS:
        document = torch.randint(2, VOCAB, (length,), generator=draw)
        document[-1] = EOS
        documents.append(document)
    return torch.cat(documents)[None], documents


def target_losses(loss_module: Any, ids_BT: torch.Tensor, places: range) -> torch.Tensor:
    """The loss of each target, one at a time."""
    found = []
    for place in places:
        mask_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        mask_BT[:, place] = True
        with torch.no_grad():
            found.append(loss_module(ids_BT, mask_BT, 1.0)[1])
    return torch.stack(found)


@pytest.mark.parametrize("name", MODELS)
def test_documents_of_a_window_are_as_if_alone(name: str) -> None:
    """Within 1e-5 in nats: the same numbers in products of another shape. Unmasked, documents do see one another."""
    ids_BT, documents = packed_window()
    masked, unmasked = module(name, masked=True).eval(), module(name).eval()
    start = 0
    for number, document in enumerate(documents):
        inside = range(start + 1, start + len(document))
        if inside:
            alone = target_losses(unmasked, document[None], range(1, len(document)))
            packed = target_losses(masked, ids_BT, inside)
            torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
            if number:
                seen = target_losses(unmasked, ids_BT, inside)
                assert float((seen - alone).abs().max()) > 1e-3
        start += len(document)


def test_positions_begin_anew_after_each_end() -> None:
    ids_BT = torch.tensor([[5, 6, EOS, 7, EOS, EOS, 8, 9], [EOS, 5, 5, 5, 5, 5, 5, EOS]])
    assert document_positions(ids_BT, EOS).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]


def test_masking_reaches_the_runs(tmp_path: Path) -> None:
    corpus = tiny_runs.make_corpus(tmp_path).path
    data = {**small_jobs.SMALL["data"], "document_masking": True}
    plain = small_jobs.run_small(corpus, tmp_path / "plain")
    masked = small_jobs.run_small(corpus, tmp_path / "masked", data=data)
    run = TrainingRun(small_jobs.small_job(corpus, tmp_path / "order", small_jobs.small_config()), Layout(World()))
    inner_ends = [
        bool((read_batch(run.windows, run.order, step).ids[:, 1:-2] == run.windows.eos_id).any())
        for step in range(1, 7)
    ]
    first = inner_ends.index(True)  # until then no window holds two documents, and nothing can differ
    pairs = list(zip(small_jobs.records(plain, "step"), small_jobs.records(masked, "step"), strict=True))
    assert all(one["token_digest"] == other["token_digest"] for one, other in pairs)
    assert [one["loss"] == other["loss"] for one, other in pairs] == [step < first for step in range(6)]
