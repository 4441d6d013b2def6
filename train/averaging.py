"""Averages of weights that come out with the same bits everywhere (`weighted-sum/1`).

The weights of an average are whole numbers `n_1 .. n_k` with the sum `N`, at most 2**29. Of the F32 elements `x_1 ..
x_k` that stand at one place in the ingredients, the average has there

    F32( (((n_1*x_1 + n_2*x_2) + n_3*x_3) + ... + n_k*x_k) / N )

in IEEE 754 binary64, each operation by itself and rounded to nearest, ties to even; the last rounding is to binary32.
The products are exact, since 24 bits and 29 bits fit into 53. An element that is equal in all ingredients keeps its
bits. Elements do not meet, so that neither threads nor the size of blocks can change a bit; numpy multiplies, adds and
divides in passes of their own, so that no compiler can fuse two of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_recipes.interleave import largest_remainder
from provenance.errors import TrainingError
from train.average_settings import DENOMINATOR
from train.tensor_digests import combine_digests, digest_of_rows, hash_rows
from train.weight_files import StoredTensor, stored_tensors, weight_files

ARITHMETIC = "weighted-sum/1"
BLOCK_ELEMENTS = 2**22
"""Elements that are held at a time, of all ingredients together; more where a row of each is more."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AverageDigests:
    """Digests `state/1` of all weights that an average was made from, in order, and of what came out."""

    ingredients: list[str]
    average: str


def numerators_of(kind: str, num_ingredients: int, weights: Sequence[int], decay: float | None) -> list[int]:
    """The whole numbers with which ingredients count; their sum is the denominator.

    Args:
        kind: `uniform`: 1 each; `weights`: as given; `ema`: those of the recurrence `e_1 = x_1`,
            `e_i = decay * e_(i-1) + (1 - decay) * x_i`, as parts of `DENOMINATOR` by the largest remainder.
        weights: of kind `weights`.
        decay: of kind `ema`; the binary64 number that it is, taken exactly.
    """
    if kind == "uniform":
        return [1] * num_ingredients
    if kind == "weights":
        return list(weights)
    assert decay is not None
    keep, whole = Fraction(decay).as_integer_ratio()
    add, last = whole - keep, num_ingredients - 1
    exact = [keep**last, *(add * keep ** (last - i) * whole ** (i - 1) for i in range(1, num_ingredients))]
    return list(largest_remainder(DENOMINATOR, exact))


def average_rows(ingredients: Sequence[Rows], numerators: Sequence[int]) -> Rows:
    """The average of equally many elements of each ingredient."""
    total = np.multiply(ingredients[0], float(numerators[0]), dtype=np.float64)
    for rows, numerator in zip(ingredients[1:], numerators[1:], strict=True):
        total += np.multiply(rows, float(numerator), dtype=np.float64)
    total /= float(sum(numerators))
    if not np.isfinite(total).all():
        raise TrainingError("an average is not finite", expected="checkpoints whose weights are all finite")
    return total.astype("<f4")


def flushes_subnormals() -> bool:
    """Whether something has told this process's processor to take the smallest numbers for 0.

    Libraries that were built with `-ffast-math` do so for all that runs beside them: no bits can be promised then.
    """
    smallest = np.array([1], "<u4").view("<f4")
    return average_rows([smallest, smallest], [1, 1]).tobytes() != smallest.tobytes()


def average_weights(
    directories: Sequence[Path], numerators: Sequence[int], target: Path | None = None
) -> AverageDigests:
    """Average the weights of checkpoints in blocks of rows; the digests of all weights come out on the way.

    Args:
        directories: checkpoints, in the order of the additions.
        target: directory to write the average to, in files like those of the last checkpoint; None to write nothing.

    Raises:
        TrainingError: when the checkpoints do not hold the same F32 tensors, an element is not finite, or this process
            takes the smallest numbers for 0.
    """
    if flushes_subnormals():
        raise TrainingError(
            "this process takes subnormal numbers for 0",
            expected="IEEE 754 arithmetic",
            next_command="leave out the library that was built with -ffast-math",
        )
    found = [dict(stored_tensors(weight_files(directory))) for directory in directories]
    _check_tensors(found, directories)
    digests: list[dict[str, bytes]] = [{} for _ in (*directories, target)]
    for path in weight_files(directories[-1]):
        own = [(name, tensor) for name, tensor in found[-1].items() if tensor.path == path]
        if target is None:
            _average_file(own, found, numerators, digests, len)
            continue
        with path.open("rb") as source, (target / path.name).open("wb") as file:
            file.write(source.read(min(tensor.offset for _, tensor in own)))  # the header is that of the last one
            _average_file(own, found, numerators, digests, file.write)
    combined = [combine_digests(tensors) for tensors in digests]
    return AverageDigests(combined[:-1], combined[-1])


def _average_file(
    own: Sequence[tuple[str, StoredTensor]],
    found: Sequence[dict[str, StoredTensor]],
    numerators: Sequence[int],
    digests: Sequence[dict[str, bytes]],
    write: Callable[[bytes], object],
) -> None:
    """Average the tensors of one file in the order in which they lie in it."""
    for name, tensor in own:
        leaves = [bytearray() for _ in digests]
        for first, last in _blocks(tensor, len(found)):
            blocks = [tensors[name].read_rows(first, last) for tensors in found]
            blocks.append(average_rows(blocks, numerators))
            shape = (last - first, *tensor.shape[1:]) if len(tensor.shape) >= 2 else tensor.shape
            for place, block in enumerate(blocks):
                leaves[place] += hash_rows(block.data.cast("B"), shape)
            write(blocks[-1].tobytes())
        for place, hashed in enumerate(leaves):
            digests[place][name] = digest_of_rows(name, "float32", tensor.shape, bytes(hashed))


def _blocks(tensor: StoredTensor, num_ingredients: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BLOCK_ELEMENTS // max(1, num_ingredients * tensor.row_elements))
    for first in range(0, tensor.num_rows, rows):
        yield first, min(first + rows, tensor.num_rows)


def _check_tensors(found: Sequence[dict[str, StoredTensor]], directories: Sequence[Path]) -> None:
    """Refuse checkpoints of other shapes than the last, and tensors that are not F32."""
    expected = {name: tensor.shape for name, tensor in found[-1].items()}
    for tensors, directory in zip(found, directories, strict=True):
        odd = sorted(name for name, tensor in tensors.items() if tensor.dtype != "F32")
        if odd or not tensors:
            told = f"tensor {odd[0]!r} of {tensors[odd[0]].dtype}" if odd else "no weights"
            raise TrainingError(told, expected="checkpoints of F32 weights", where=str(directory))
        other = {name: tensor.shape for name, tensor in tensors.items()}
        differing = sorted(n for n in expected.keys() | other.keys() if expected.get(n) != other.get(n))
        if differing:
            raise TrainingError(
                f"tensor {differing[0]!r} is {other.get(differing[0])}",
                expected=f"the same tensors as {directories[-1]}: {expected.get(differing[0])}",
                where=str(directory),
            )
