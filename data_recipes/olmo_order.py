"""From the data order of OLMo-core to an order file of ours, over a source in place that holds the same files.

OLMo-core keeps `global_indices_*.npy`: numbers of instances, u32 without a header. With sequences of `L` tokens, a file
of `n` tokens has `n div L` instances, instance `i` being its tokens `i*L .. i*L + L-1`; instances of all files are
numbered on in the order of the files. Our window `w` of length `L` holds the tokens `w*L .. w*L + L`: the instance with
the token after it, so that its last token has a target too. A file has `(n-1) div L` windows. Where `L` divides `n`,
the last instance has no token after it, and no window.
"""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_recipes.order_file import ORDER_DTYPES, map_numbers
from data_recipes.windows import TokenWindows
from provenance.canonical import read_json
from provenance.digests import sha256_file
from provenance.errors import DataError

ORDER_FORMAT = "openwright-order-file/1"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ConvertedOrder:
    """An order file that was written.

    Attributes:
        sha256: of the file.
        dtype: of its numbers, a name of `ORDER_DTYPES`.
        tokens_digest: digest `tokens/1` of the split whose windows are numbered.
        num_windows: numbers in the file.
        num_left_out: instances of the order that have no window and are not in it.
    """

    sha256: str
    dtype: str
    tokens_digest: str
    num_windows: int
    num_left_out: int


def convert_olmo_order(
    corpus: Path,
    source: str,
    instances_path: Path,
    target: Path,
    *,
    split: str,
    window_tokens: int,
    file_chunk_tokens: int | None = None,
    leave_out: bool = False,
) -> ConvertedOrder:
    """Write the order file of a file of instance numbers.

    Args:
        corpus: the corpus directory (`dataset/` of a bundle).
        source: a source in place, whose shards are the files in the order in which OLMo-core had them.
        target: a new file.
        window_tokens: `sequence_length` of OLMo-core.
        file_chunk_tokens: its `max_target_sequence_length`, where it is set: files count in whole stretches of so many.
        leave_out: leave out places that name an instance without a window; all that follow then move up.

    Raises:
        DataError: for a number that is no instance, one that has no window, and a target that exists.
    """
    stretch = window_tokens if file_chunk_tokens is None else file_chunk_tokens
    if stretch < window_tokens or stretch % window_tokens:
        raise DataError(f"stretches of {stretch} tokens", expected=f"a multiple of {window_tokens}, the window length")
    if not instances_path.is_file():
        raise DataError("no file", expected="numbers of instances, as OLMo-core writes them", where=str(instances_path))
    if target.exists():
        raise DataError("the file exists", expected="a new one", where=str(target), next_command="name another file")
    windows = TokenWindows(corpus, split, window_tokens)
    sizes, offset = _sizes_of(corpus, windows, source)
    firsts = list(accumulate((size // stretch * (stretch // window_tokens) for size in sizes), initial=0))
    first_windows = np.array(list(accumulate(((size - 1) // window_tokens for size in sizes), initial=offset)))
    numbers = map_numbers(instances_path, "u32")
    dtype = "u32" if sum(pool.num_windows for pool in windows.sources) <= 2**32 else "u64"
    num_left_out = 0
    with target.open("xb") as file:
        try:
            for begin in range(0, len(numbers), _BLOCK):
                block = np.asarray(numbers[begin : begin + _BLOCK], np.int64)
                found = _windows_of(block, begin, firsts, first_windows, instances_path)
                num_left_out += int(np.count_nonzero(found < 0))
                file.write(found[found >= 0].astype(ORDER_DTYPES[dtype]).tobytes())
            if num_left_out and not leave_out:
                raise _without_windows(num_left_out, len(numbers), instances_path)
        except BaseException:
            target.unlink()  # else the corrected command would find that the file exists
            raise
    return ConvertedOrder(sha256_file(target), dtype, windows.tokens_digest, len(numbers) - num_left_out, num_left_out)


def _without_windows(num_left_out: int, num_places: int, path: Path) -> DataError:
    return DataError(
        f"{num_left_out:,} of {num_places:,} places name the last instance of a file that is a whole number of "
        "sequences: it has no token after it, and no window",
        expected="instances with a token after them",
        where=str(path),
        next_command="--leave-out, which leaves these places out: all that follow move up",
    )


def _sizes_of(corpus: Path, windows: TokenWindows, source: str) -> tuple[list[int], int]:
    """Tokens of each shard of a source, and the windows of the sources before it."""
    locked = {entry["name"]: entry for entry in read_json(corpus / "sources.lock")["sources"]}
    if not locked.get(source, {}).get("in_place"):
        in_place = ", ".join(sorted(name for name, entry in locked.items() if entry.get("in_place")))
        raise DataError(
            f"source {source!r} is not in place",
            expected=f"one whose shards are the files that the order numbers: {in_place or 'here is none'}",
            where=str(corpus / "sources.lock"),
        )
    offset = 0
    for entry, pool in zip(
        read_json(corpus / "tokens" / "tokens.json")["splits"][windows.split]["sources"], windows.sources, strict=True
    ):
        if entry["name"] == source:
            return [shard["num_tokens"] for shard in entry["shards"]], offset
        offset += pool.num_windows
    raise DataError(f"source {source!r} is not in split {windows.split!r}", where=str(corpus / "tokens"))


def _windows_of(
    instances: npt.NDArray[np.int64],
    begin: int,
    firsts: list[int],
    first_windows: npt.NDArray[Any],
    path: Path,
) -> npt.NDArray[np.int64]:
    """The windows of instances, -1 where one has none.

    Args:
        begin: place of the first of them in the file, for messages.
        firsts: first instance of each file, and the one past the last.
        first_windows: first window of each file, and the one past the last.
    """
    beyond = np.flatnonzero(instances >= firsts[-1])
    if len(beyond):
        raise DataError(
            f"instance {int(instances[beyond[0]]):,} at place {begin + int(beyond[0]):,}",
            expected=f"numbers below {firsts[-1]:,}, the instances of all files",
            where=str(path),
            next_command="give the sequence length and the files, in their order, that the order was made for",
        )
    files = np.searchsorted(firsts, instances, side="right") - 1
    found: npt.NDArray[np.int64] = first_windows[files] + instances - np.array(firsts)[files]
    return np.where(found < first_windows[files + 1], found, -1)
