import hashlib
import json

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.layout import Layout, Part, World
from train.state import ParameterChecksum, format_checksum, state_digest

SHAPES = {"norm": (66,), "embed": (101, 7), "experts": (3, 5, 11), "step": ()}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def checksum(values: dict[str, torch.Tensor], layout: Layout | None = None) -> torch.Tensor:
    parts = [Part(name, tensor, tuple(tensor.shape)) for name, tensor in values.items()]
    return ParameterChecksum(parts, layout or Layout(World())).partial_sums()


def independent_state_digest(values: dict[str, torch.Tensor]) -> str:
    """`state/1` by docs/formats.md with numpy alone."""
    outer = b"openwright:state/1\n"
    for name in sorted(values):
        array = values[name].numpy()
        header = json.dumps(
            {"dtype": "F32", "name": name, "shape": list(array.shape)}, separators=(",", ":"), sort_keys=True
        )
        rows = list(array) if array.ndim >= 2 else [array]
        leaves = b"".join(hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in rows)
        outer += hashlib.sha256(b"openwright:state/1:tensor\n" + header.encode() + b"\n" + leaves).digest()
    return hashlib.sha256(outer).hexdigest()


def test_state_digest_follows_the_formats_page() -> None:
    assert state_digest(tensors()) == independent_state_digest(tensors())


def test_state_digest_ignores_memory_layout_and_order_of_names() -> None:
    values = tensors()
    strided = {name: values[name] for name in reversed(values)}
    strided["embed"] = values["embed"].t().contiguous().t()
    assert state_digest(strided) == state_digest(values)


@given(st.sampled_from(sorted(SHAPES)), st.randoms())
def test_every_bit_counts(name: str, draw: "object") -> None:
    values = tensors()
    bits = values[name].reshape(-1).view(torch.int32)
    index = draw.randrange(bits.numel())  # type: ignore[attr-defined]
    bits[index] ^= 1 << draw.randrange(31)  # type: ignore[attr-defined]
    assert state_digest(values) != state_digest(tensors())
    assert format_checksum(checksum(values)) != format_checksum(checksum(tensors()))


def test_renaming_and_reshaping_count() -> None:
    values = tensors()
    renamed = {("other" if name == "norm" else name): tensor for name, tensor in values.items()}
    reshaped = {**values, "embed": values["embed"].reshape(7, 101)}
    assert len({state_digest(values), state_digest(renamed), state_digest(reshaped)}) == 3


def independent_checksum(values: dict[str, torch.Tensor]) -> str:
    plain = weighted = 0
    number = 0
    for name in sorted(values):
        for bits in values[name].numpy().reshape(-1).view(np.int32).tolist():
            number += 1
            plain += bits
            weighted += number * bits
    return f"{plain % 2**64:016x}-{weighted % 2**64:016x}"


def test_checksum_follows_the_formats_page_and_adds_up_over_processes() -> None:
    values = {**tensors(), "large": torch.randn(300_007, generator=torch.Generator().manual_seed(5))}
    whole = checksum(values)
    assert format_checksum(whole) == independent_checksum(values)
    for world_size in (2, 4, 8):
        shares = [checksum(values, Layout(World(rank, world_size))) for rank in range(world_size)]
        assert torch.equal(torch.stack(shares).sum(0), whole)


def test_checksum_of_rows_adds_up_to_that_of_the_whole() -> None:
    values = {**tensors(), "large": torch.randn(70_001, 3, generator=torch.Generator().manual_seed(5))}
    del values["step"]
    whole = checksum(values)
    sums = torch.zeros(2, dtype=torch.int64)
    for shard, rows in enumerate((slice(0, 2), slice(2, None))):
        parts = [Part(name, t[rows], tuple(t.shape), rows.start) for name, t in values.items()]
        sums += ParameterChecksum(parts, Layout(World(shard, 2), 2)).partial_sums()
    assert torch.equal(sums, whole)


def test_swapped_elements_change_the_checksum() -> None:
    values = tensors()
    flat = values["embed"].reshape(-1)
    flat[3], flat[400] = flat[400].clone(), flat[3].clone()
    before, after = checksum(tensors()), checksum(values)
    assert before[0] == after[0]
    assert before[1] != after[1]
