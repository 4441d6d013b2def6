"""Muon with the same bits at every layout: its unit is a whole matrix, wherever the rows of it are held.

Momentum and weight decay act on single elements and stay where the rows are. The Newton-Schulz iteration mixes all
rows of a matrix, so it runs on the whole matrix, in one process, its owner; torch's own function does the arithmetic.
(`torch.optim.Muon` takes the tensors of `fully_shard` too, and then gives other bits without a word.) A matrix is a
two-dimensional parameter, or one expert `[e]` of a three-dimensional one.

The work goes in rounds, each with at most one matrix per process, so that all owners compute at the same time and no
process ever holds more than about one matrix beside its parts. In a round, a row of the grid sends the rows of each
matrix to its owner in that row and gets the rows of the result back; then each row of the grid tells the others, which
hold the same rows. Matrices travel as bfloat16, which is what the iteration computes in.

Run with gloo on CPUs. The same code serves CUDA tensors; over NCCL: written, not run.

Legend: E experts; a matrix has `num_rows` x `num_columns` elements.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, EPS, _zeropower_via_newtonschulz

from train.layout import Layout, Part
from train.settings import OptimizerConfig

BUFFER = "momentum_buffer"
_COEFFICIENTS = (DEFAULT_A, DEFAULT_B, DEFAULT_C)


@dataclass(frozen=True)
class Matrix:
    """A two-dimensional parameter, or one expert of a three-dimensional one.

    Attributes:
        part: number of the part that it belongs to.
        expert: number of the expert; None for a two-dimensional parameter.
        num_rows_by_shard: rows held by each column of the grid, in order.
    """

    part: int
    expert: int | None
    num_rows_by_shard: tuple[int, ...]
    num_columns: int

    @property
    def num_rows(self) -> int:
        """Rows of the whole matrix."""
        return sum(self.num_rows_by_shard)

    @property
    def cost(self) -> int:
        """Multiplications of one matrix product of the iteration."""
        return self.num_rows * self.num_columns * min(self.num_rows, self.num_columns)

    @property
    def holders(self) -> list[int]:
        """Columns of the grid that hold rows of it."""
        return [shard for shard, rows in enumerate(self.num_rows_by_shard) if rows]


Round = Mapping[int, Matrix]  # the matrix of each owner, by rank


class Muon:
    """Muon (Nesterov, decoupled weight decay), its steps scaled to the root mean square of AdamW's.

    On whole tensors this is `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, bit for bit.

    Args:
        config: settings of the optimizer.
        parts: what this process holds of the matrices, of two or three dimensions.
        layout: the processes, and who holds which rows.
    """

    def __init__(self, config: OptimizerConfig, parts: Sequence[Part], layout: Layout) -> None:
        self._config = config
        self._parts = list(parts)
        self._layout = layout
        self._buffers = [torch.zeros_like(part.tensor) for part in parts]
        self._rounds = plan_rounds(parts, layout)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update every part in place."""
        for part, buffer in zip(self._parts, self._buffers, strict=True):
            buffer.lerp_(gradients[part.name], 1 - self._config.muon_momentum)
            part.tensor.mul_(1 - learning_rate * self._config.weight_decay)
        for matrices in self._rounds:
            own_row = self._orthogonalize(matrices, gradients)
            for replica in range(self._layout.num_replicas):
                self._apply(matrices, replica, own_row, learning_rate)

    def state(self) -> list[Part]:
        """Return the momentum of every part."""
        return [
            part.like(f"{part.name}.{BUFFER}", buffer) for part, buffer in zip(self._parts, self._buffers, strict=True)
        ]

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put the momentum of every part back; Muon has no use for the number of steps."""
        for part, buffer in zip(self._parts, self._buffers, strict=True):
            buffer.copy_(tensors[f"{part.name}.{BUFFER}"])

    def _row_matrices(self, matrices: Round, replica: int) -> list[tuple[int, Matrix]]:
        """Matrices owned in a row of the grid, each with the column of its owner, in the order of columns."""
        size = self._layout.shard_size
        return [
            (rank - replica * size, matrices[rank])
            for rank in range(replica * size, (replica + 1) * size)
            if rank in matrices
        ]

    def _held_rows(self, matrix: Matrix, tensor: torch.Tensor) -> torch.Tensor:
        """View the rows of a matrix that this process holds, in a tensor laid out as the part."""
        if matrix.expert is None:
            return tensor
        if not matrix.num_rows_by_shard[self._layout.shard]:
            return tensor.new_empty(0, matrix.num_columns)
        return tensor[matrix.expert - self._parts[matrix.part].first_row]

    def _update_direction(self, matrix: Matrix, gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Nesterov's gradient of the rows held, flat, in bfloat16."""
        gradient = self._held_rows(matrix, gradients[self._parts[matrix.part].name])
        buffer = self._held_rows(matrix, self._buffers[matrix.part])
        return gradient.lerp(buffer, self._config.muon_momentum).to(torch.bfloat16).reshape(-1)

    def _orthogonalize(self, matrices: Round, gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the iteration on the matrix owned here; returns the rows held of all matrices owned in this row, flat."""
        own_row = self._row_matrices(matrices, self._layout.replica)
        if not own_row:
            return self._parts[0].tensor.new_empty(0, dtype=torch.bfloat16)
        sent = torch.cat([self._update_direction(matrix, gradients) for _, matrix in own_row])
        # Splits in elements: what goes to each column, and what comes from each column.
        splits_out, splits_in = [0] * self._layout.shard_size, [0] * self._layout.shard_size
        for column, matrix in own_row:
            splits_out[column] = matrix.num_rows_by_shard[self._layout.shard] * matrix.num_columns
        own = matrices.get(self._layout.world.rank)
        if own is not None:
            splits_in = [rows * own.num_columns for rows in own.num_rows_by_shard]
        # Experts lie whole with their owners: a row in which nothing has to move sends nothing.
        moves = any(matrix.holders != [column] for column, matrix in own_row)
        whole = self._exchange(sent, splits_out, splits_in) if moves else sent
        if own is not None:
            matrix_RC = whole.view(own.num_rows, own.num_columns)
            iterations = self._config.muon_iterations
            whole = _zeropower_via_newtonschulz(matrix_RC, _COEFFICIENTS, iterations, EPS).reshape(-1)
        return self._exchange(whole, splits_in, splits_out) if moves else whole

    def _exchange(self, sent: torch.Tensor, splits_out: list[int], splits_in: list[int]) -> torch.Tensor:
        """Send a stretch of a flat tensor to each process of the row; returns what they sent, in their order."""
        received = sent.new_empty(sum(splits_in))
        dist.all_to_all_single(received, sent, splits_in, splits_out, group=self._layout.shard_group)
        return received

    def _apply(self, matrices: Round, replica: int, own_row: torch.Tensor, learning_rate: float) -> None:
        """Take the steps of the matrices owned in one row of the grid, which tells its results to the others."""
        layout = self._layout
        owned = [matrix for _, matrix in self._row_matrices(matrices, replica)]
        sizes = [matrix.num_rows_by_shard[layout.shard] * matrix.num_columns for matrix in owned]
        if not sum(sizes):
            return
        result = own_row if replica == layout.replica else own_row.new_empty(sum(sizes))
        if layout.num_replicas > 1:
            source = replica * layout.shard_size + layout.shard
            dist.broadcast(result, source, group=layout.replicate_group)
        for matrix, rows in zip(owned, torch.split(result, sizes), strict=True):
            target = self._held_rows(matrix, self._parts[matrix.part].tensor)
            scale = 0.2 * math.sqrt(max(matrix.num_rows, matrix.num_columns))
            target.add_(rows.view(target.shape), alpha=-(learning_rate * scale))


def plan_rounds(parts: Sequence[Part], layout: Layout) -> list[Round]:
    """Give each matrix an owner, and put them into rounds of at most one matrix per process.

    Largest matrices first, each to the process with the least work so far. A matrix that one column of the grid holds
    alone (an expert) stays in that column. Every process makes the same plan.
    """
    matrices = sorted(_matrices_of(parts, layout), key=lambda m: (-m.cost, m.part, m.expert or 0))
    work = [0] * layout.world.size
    queues: list[list[Matrix]] = [[] for _ in work]
    for matrix in matrices:
        columns = matrix.holders if len(matrix.holders) == 1 else list(range(layout.shard_size))
        ranks = [rank for rank in range(layout.world.size) if rank % layout.shard_size in columns]
        owner = min(ranks, key=lambda rank: (work[rank], rank))
        work[owner] += matrix.cost
        queues[owner].append(matrix)
    num_rounds = max((len(queue) for queue in queues), default=0)
    return [
        {rank: queue[number] for rank, queue in enumerate(queues) if number < len(queue)}
        for number in range(num_rounds)
    ]


def _matrices_of(parts: Sequence[Part], layout: Layout) -> Iterator[Matrix]:
    for number, part in enumerate(parts):
        held = _rows_by_shard(part.shape[0], layout.shard_size)
        assert part.tensor.shape[0] == held[layout.shard], f"{part.name} is not cut as torch.chunk cuts"
        if len(part.shape) == 2:
            yield Matrix(number, None, held, part.shape[1])
            continue
        first = 0
        for shard, num_experts in enumerate(held):
            rows = tuple(part.shape[1] if column == shard else 0 for column in range(layout.shard_size))
            for expert in range(first, first + num_experts):
                yield Matrix(number, expert, rows, part.shape[2])
            first += num_experts


def _rows_by_shard(num_rows: int, shard_size: int) -> tuple[int, ...]:
    """Rows that each column of the grid holds: full chunks first, then what is left, as torch.chunk cuts."""
    chunk = -(-num_rows // shard_size)
    return tuple(max(0, min(num_rows - shard * chunk, chunk)) for shard in range(shard_size))
