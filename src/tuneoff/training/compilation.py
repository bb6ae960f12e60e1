"""Compilation: the decoder layers as torch.compile makes them, in train steps alone, and what compiling them took."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tuneoff.config import Experiment
from tuneoff.data import StepOrder
from tuneoff.models.layers import find_decoder_layers

BACKEND = "inductor"
# Rows are padded to one of so many lengths, for each of which the layers are compiled.
LENGTHS = 4
# A length above it is one that vector units divide.
MULTIPLE = 8
# Kinds of layers, lengths, and what a method trains in turn, multiplied; torch goes on without compiling after 8.
MOST_COMPILED = 64


class NotCompiled(RuntimeError):
    """The layers differ so often that they would be compiled for ever."""


class PlainLayers:
    """Layers that are not compiled."""

    lengths: tuple[int, ...] = ()  # to which rows are padded; none, as long as the longest of them
    seconds = 0.0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around a train step."""
        yield

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave."""

    def facts(self) -> dict[str, Any]:
        """What the record has of it."""
        return {}


class CompiledLayers(PlainLayers):
    """Layers that are compiled in place, each module by itself, so that names and hooks stay.

    Alike layers share what is compiled. Outside train steps they run as they are: an evaluation has other lengths.
    """

    def __init__(self, model: Any, lengths: tuple[int, ...]):
        """Take a model whose rows are padded to `lengths`; nothing is compiled before the first step."""
        self.lengths = lengths
        self.seconds = 0.0  # of compiling, so far
        self.graphs = 0  # compiled, so far
        self.graph_breaks = 0  # places at which a layer could not be compiled as a whole
        self._began = 0.0
        torch._dynamo.reset()  # what an earlier run of this process has compiled counts towards the limit
        self._layers: list[Any] = list(find_decoder_layers(model)[1])
        for layer in self._layers:
            layer.compile(backend=BACKEND, dynamic=False)
        self._compiled = [layer._compiled_call_impl for layer in self._layers]
        self._uncompile()

    def _uncompile(self) -> None:
        for layer in self._layers:
            layer._compiled_call_impl = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around a train step: the layers are compiled, if they were not yet for rows of this length.

        Raises:
            NotCompiled: too many variants. Torch by itself would go on without compiling, and say nothing.
        """
        callbacks = torch._dynamo.callback.callback_handler
        counters = torch._dynamo.utils.counters
        counted_graphs = counters["stats"]["unique_graphs"]
        counted_breaks = sum(counters["graph_break"].values())
        callbacks.register_start_callback(self._begin)
        callbacks.register_end_callback(self._end)
        for layer, compiled in zip(self._layers, self._compiled, strict=True):
            layer._compiled_call_impl = compiled
        try:
            with torch._dynamo.config.patch(
                recompile_limit=MOST_COMPILED,
                fail_on_recompile_limit_hit=True,
                # It would part the layers where DDP sends gradients, though they end there anyway.
                optimize_ddp=False,
            ):
                yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise NotCompiled(
                f"compile=true: the layers were compiled {MOST_COMPILED} times, and differ once more; "
                "TORCH_LOGS=recompiles says in what"
            ) from error
        finally:
            self._uncompile()
            callbacks.remove_start_callback(self._begin)
            callbacks.remove_end_callback(self._end)
            self.graphs += counters["stats"]["unique_graphs"] - counted_graphs
            self.graph_breaks += sum(counters["graph_break"].values()) - counted_breaks

    def _begin(self, _: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, _: Any) -> None:
        self.seconds += time.perf_counter() - self._began

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: what was compiled before it took its time, too."""
        return {"seconds": self.seconds, "graphs": self.graphs, "breaks": self.graph_breaks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave."""
        self.seconds = state["seconds"]
        self.graphs = state["graphs"]
        self.graph_breaks = state["breaks"]

    def facts(self) -> dict[str, Any]:
        """What the record has of it."""
        return {
            "lengths": list(self.lengths),
            "graphs": self.graphs,
            "graph_breaks": self.graph_breaks,
        }


def compile_layers(
    experiment: Experiment,
    model: Any,
    order: StepOrder,
    steps: int,
) -> PlainLayers:
    """The decoder layers of a model as its train steps call them.

    Args:
        order: of the rows.
        steps: so many of them are looked through for the lengths of batches.

    Raises:
        ConfigError: a model without a list of layers.
    """
    if not experiment.compile:
        return PlainLayers()
    return CompiledLayers(model, choose_lengths(order, steps, experiment.batch_size))


def choose_lengths(order: StepOrder, steps: int, batch_size: int) -> tuple[int, ...]:
    """A few lengths to which batches are padded: a quarter of them fits each, and every row the last.

    They follow from the order of the rows alone, so that a resumed run has the same.
    """
    longest = max(len(row.ids) for row in order.rows)
    batch_lengths = []
    for step in range(steps):
        rows = order.step_rows(step)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            batch_lengths.append(max(len(row.ids) for row in batch))
    batch_lengths.sort()
    lengths = {longest}
    for quarter in range(1, LENGTHS):
        last = math.ceil(quarter * len(batch_lengths) / LENGTHS) - 1
        rounded = math.ceil(batch_lengths[last] / MULTIPLE) * MULTIPLE
        lengths.add(min(rounded, longest))
    return tuple(sorted(lengths))
