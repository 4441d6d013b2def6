"""The gradients of a step: exact over logical replicas, or torch's own way.

Both cut the batch into `num_logical_replicas` parts and make one forward and backward pass for each; they differ in
how parts meet. Random draws are seeded per (seed, step, part). A part's loss is its sum over the step's count of
trained tokens: never a mean of means.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from provenance.errors import ConfigError
from train.batch import StepBatch
from train.layout import Layout, cut_of
from train.model import derive_seed
from train.reduction import ReplicaReducer, TreeSum, exact_norm, own_replicas, tree_sum
from train.settings import RunConfig

Counting = Callable[[], AbstractContextManager[None]]
"""Entered around each training forward pass, so that router loads are counted there and nowhere else."""


@dataclass(frozen=True)
class StepGradients:
    """Gradients of the whole batch as far as this process holds them.

    Attributes:
        by_name: one tensor per parameter, of the rows held.
        norm: Euclidean norm over all elements of all parameters.
        loss: mean loss of the step's trained tokens, in nats.
    """

    by_name: dict[str, torch.Tensor]
    norm: float
    loss: float


class Passes:
    """Forward and backward passes over parts of a batch.

    Args:
        module: the module whose forward pass trains.
        parameters: trainable parameters by name.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        config: RunConfig,
        layout: Layout,
        counting: Counting = nullcontext,
    ) -> None:
        self.module = module
        # The backward pass reaches parameters roughly in the opposite order of the model's.
        self.names = list(reversed(parameters))
        self.parameters = [parameters[name] for name in self.names]
        self.config = config
        self.layout = layout
        self._counting = counting

    def run(self, batch: StepBatch, places: slice, replica: int, scale: float) -> torch.Tensor:
        """Add the gradients of one part to `.grad`; returns the part's sum of losses as float64."""
        ids_BT, mask_BT = batch.rows(places, self.layout.world.device)
        torch.manual_seed(derive_seed(self.config.seed, "step", batch.step, replica))
        loss_sum: torch.Tensor
        with self._counting():
            objective, loss_sum = self.module(ids_BT, mask_BT, scale)
        objective.backward()
        return loss_sum

    def take(self, index: int) -> torch.Tensor:
        """Take a parameter's gradient away, as fp32; zeros where no pass reached it."""
        parameter = self.parameters[index]
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
            # Of a matrix that is cut but not sharded, autograd leaves a gradient as the backward pass made it: whole on
            # every process, or still to be added.
            gradient = gradient.redistribute(placements=parameter.placements).to_local()
        return gradient.detach().float()

    def loss(self, sums_R: torch.Tensor, num_trained: int) -> float:
        """Mean loss over all parts; one process fills each place and the others add zeros, which is exact.

        With context parallelism the processes that share a part's windows add their sums, in float64.
        """
        return tree_sum(self.layout.world.all_reduce(sums_R).tolist()) / num_trained


class ExactGradients:
    """`reduction: exact`: the same bits at every layout.

    The gradients of all passes but the last wait in binary counters, one per bucket of parameters; in the last pass a
    bucket is closed and sent to the other rows of the grid as soon as the backward pass has reached all of it. The
    lowest level of the tree is added by the backward pass of every second pass, while what it adds is still in the
    cache, unless parameters are bf16: two of their gradients would be rounded.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        layout = passes.layout
        sizes = [_local_size(parameter) for parameter in passes.parameters]
        self._reducer = ReplicaReducer(sizes, layout) if layout.num_replicas > 1 else None
        self._buckets = self._reducer.buckets if self._reducer else [range(len(sizes))]
        self._trees = [TreeSum() for _ in self._buckets]
        self._adds_pairs = all(parameter.dtype == torch.float32 for parameter in passes.parameters)
        self._totals: list[list[torch.Tensor]] = []
        self._is_last_pass = False
        self._waiting: list[int] = []
        if self._reducer and not isinstance(passes.module, FSDPModule):
            for bucket, places in enumerate(self._buckets):
                for index in places:
                    parameter: Any = passes.parameters[index]
                    parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def _hook(self, bucket: int) -> Callable[[torch.Tensor], None]:
        def on_gradient(_: torch.Tensor) -> None:
            if self._is_last_pass:
                self._waiting[bucket] -= 1
                while len(self._totals) < len(self._buckets) and self._waiting[len(self._totals)] == 0:
                    self._close_next_bucket()

        return on_gradient

    def _close_next_bucket(self) -> None:
        bucket = len(self._totals)
        self._trees[bucket].push([self._passes.take(index) for index in self._buckets[bucket]])
        total = self._trees[bucket].total()
        if self._reducer:  # it keeps a copy; the memory of this one is free again
            self._reducer.send(total)
            total = []
        self._totals.append(total)

    def compute(self, batch: StepBatch) -> StepGradients:
        """Compute the gradients of a step's batch.

        Raises:
            TrainingError: when a gradient is not finite.
        """
        passes, num_replicas = self._passes, self._passes.config.num_logical_replicas
        share = len(batch.ids) // num_replicas
        sums_R = torch.zeros(num_replicas, dtype=torch.float64, device=passes.layout.world.device)
        self._totals = []
        self._waiting = [len(places) for places in self._buckets]
        replicas = own_replicas(passes.layout, num_replicas)
        for number, replica in enumerate(replicas):
            self._is_last_pass = replica == replicas[-1]
            rows = slice(replica * share, (replica + 1) * share)
            sums_R[replica] = passes.run(batch, rows, replica, 1.0 / batch.num_trained)
            begins_pair = self._adds_pairs and number % 2 == 0
            if not self._is_last_pass and not begins_pair:
                for tree, places in zip(self._trees, self._buckets, strict=True):
                    tree.push([passes.take(index) for index in places])
        self._is_last_pass = False
        while len(self._totals) < len(self._buckets):
            self._close_next_bucket()
        if self._reducer:
            gradients, norm = self._reducer.receive()
        else:
            gradients = [gradient for total in self._totals for gradient in total]
            norm = exact_norm(gradients, passes.layout.world)
        self._totals = []
        by_name = dict(zip(passes.names, gradients, strict=True))
        return StepGradients(by_name, norm, passes.loss(sums_R, batch.num_trained))


class NativeGradients:
    """`reduction: native`: torch's DDP or FSDP2 at any number of processes; bits hold for the same layout only.

    Every process makes the same number of passes; where parts do not fill them, a pass over windows without trained
    tokens adds zeros.

    Args:
        partial: names of parameters whose gradients are added over the processes at a place of the grid.
    """

    def __init__(self, passes: Passes, partial: frozenset[str]) -> None:
        self._passes = passes
        self._partial = partial

    def compute(self, batch: StepBatch) -> StepGradients:
        """Compute the gradients of a step's batch; raises as `ExactGradients.compute`.

        Raises:
            ConfigError: when weights that are not cut would drift apart under tensor parallelism.
        """
        passes, layout = self._passes, self._passes.layout
        num_replicas, world = passes.config.num_logical_replicas, layout.world
        num_passes = -(-num_replicas // layout.num_readers)
        sums_R = torch.zeros(num_replicas, dtype=torch.float64, device=world.device)
        # DDP averages over processes; FSDP2 is told to add.
        factor = world.size if isinstance(passes.module, DistributedDataParallel) else 1
        for number in range(num_passes):
            replica = layout.reader * num_passes + number
            places = _share_of(len(batch.ids), num_replicas, replica)
            part = batch if places else _untrained(batch)
            with self._sync_in(number == num_passes - 1):
                loss_sum = passes.run(part, places or slice(0, 1), replica, factor / batch.num_trained)
            if places and layout.tensor == 0:
                sums_R[replica] = loss_sum
        gradients = [passes.take(index) for index in range(len(passes.parameters))]
        for name, gradient in zip(passes.names, gradients, strict=True):
            if name in self._partial:
                dist.all_reduce(gradient, group=layout.tensor_group)
        if layout.tensor_size > 1:
            self._check_whole(gradients)
        norm = exact_norm(self._counted(gradients), world)
        by_name = dict(zip(passes.names, gradients, strict=True))
        return StepGradients(by_name, norm, passes.loss(sums_R, batch.num_trained))

    def _counted(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Those that count here: every row of the grid holds the same sums, and so do the processes at one of its
        places, but for the pieces of matrices that are cut among them."""
        layout = self._passes.layout
        if layout.replica:
            return []
        pairs = zip(self._passes.parameters, gradients, strict=True)
        return [gradient for parameter, gradient in pairs if layout.tensor == 0 or cut_of(parameter) is not None]

    def _check_whole(self, gradients: list[torch.Tensor]) -> None:
        """Compare the bits of the gradients that all processes at a place of the grid are to hold alike: one of which a
        process has only its part would let the copies of a weight drift apart."""
        passes = self._passes
        places = [index for index, parameter in enumerate(passes.parameters) if cut_of(parameter) is None]
        sums_K = torch.stack([gradients[index].view(torch.int32).sum(dtype=torch.int64) for index in places])
        extremes_K = torch.stack([sums_K, -sums_K])
        dist.all_reduce(extremes_K, op=dist.ReduceOp.MAX, group=passes.layout.tensor_group)
        apart = [passes.names[index] for index, k in zip(places, extremes_K.sum(0).tolist(), strict=True) if k]
        if apart:
            raise ConfigError(
                f"the gradient of {apart[0]} differs between processes that tensor parallelism puts together",
                expected="the same bits on each, as of every weight that is not cut",
                where="execution.tensor_size",
                next_command="set execution.tensor_size to 1, and report the type of the model",
            )

    def _sync_in(self, is_last: bool) -> AbstractContextManager[None]:
        module = self._passes.module
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(is_last)
            module.set_is_last_backward(is_last)
        if isinstance(module, DistributedDataParallel) and not is_last:
            return module.no_sync()
        return nullcontext()


def _share_of(num_windows: int, num_replicas: int, replica: int) -> slice | None:
    """Windows of a part; None for a part without windows."""
    if replica >= num_replicas:
        return None
    first, last = (num_windows * r // num_replicas for r in (replica, replica + 1))
    return slice(first, last) if last > first else None


def _untrained(batch: StepBatch) -> StepBatch:
    """The batch with nothing trained."""
    return StepBatch(batch.step, batch.draws, batch.ids, batch.mask * 0)


def _local_size(parameter: nn.Parameter) -> int:
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


def build_gradients(
    module: nn.Module,
    parameters: dict[str, nn.Parameter],
    config: RunConfig,
    layout: Layout,
    counting: Counting = nullcontext,
    partial: frozenset[str] = frozenset(),
) -> ExactGradients | NativeGradients:
    """Return what computes a step's gradients under the config's `reduction`."""
    passes = Passes(module, parameters, config, layout, counting)
    return ExactGradients(passes) if config.reduction == "exact" else NativeGradients(passes, partial)


def clip_(gradients: Sequence[torch.Tensor], norm: float, max_norm: float) -> None:
    """Scale gradients in place so that their norm is at most `max_norm`; one factor, rounded once."""
    factor = min(1.0, max_norm / norm) if norm else 1.0
    if factor < 1.0:
        torch._foreach_mul_(list(gradients), factor)
