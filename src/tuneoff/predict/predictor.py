"""Runs a method's own hooks and `step.py` on fake tensors, phase by phase, and keeps what was alive at each peak.

No method is described here a second time: a new one is predicted without writing anything.
"""

import gc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from tuneoff.config import Experiment, MixedPrecision, Optimizer
from tuneoff.data import Batch, Row, collate, join_rows
from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.measure.memory_peaks import GIB
from tuneoff.methods import Method
from tuneoff.models.layers import count_parameters
from tuneoff.models.loading import build_model
from tuneoff.predict.fake_tensors import FakeMode, fake_batch, patch_quantization_tables, to_fake
from tuneoff.predict.largest_batch import find_largest_batch
from tuneoff.predict.prediction import Moment, costliest_moment, needed_gib, prediction_content
from tuneoff.training.step import Engine, summed_loss, train_step

IN_FAKE = ("sdpa", "eager")  # attention that runs on fake CPU tensors


def predict(experiment: Experiment, method: Method) -> dict:
    """Predict what training would take: prediction.json without a run's own keys, all in GiB of 2^30 bytes.

    Raises:
        ConfigError: a setting that cannot be predicted, or that the model shows to be wrong.
    """
    predictor = Predictor(experiment, method)
    gc.freeze()  # what is there by now stays; looking through it between steps would cost a tenth of the time
    try:
        parameters = count_parameters(
            predictor.model, method.ever_trained(predictor.model, predictor.optimizer)
        )
        moments = list(predictor.moments(experiment.batch_size))
        found = {"parameters": parameters, **prediction_content(moments, predictor.assumptions())}
        if experiment.gib is not None:
            found["largest_batch"] = predictor.largest_batch(
                experiment.gib, costliest_moment(moments)
            )
        return found
    finally:
        gc.unfreeze()


class Predictor:
    """One variant on fake tensors. Making it goes through the phases before the first step."""

    def __init__(self, experiment: Experiment, method: Method):
        self.experiment, self.before = experiment, []  # type: Experiment, list[Moment]
        attention = experiment.model.attention
        experiment.model.attention = attention if attention in IN_FAKE else None
        with torch.device("meta"):
            model = build_model(experiment)
            with MemoryBreakdown(model) as live:
                live.model = model = method.prepare(model)
        experiment.model.attention = attention
        self.before.append(Moment("prepare", "", live))
        self.mode = FakeMode()
        with self.faking():
            self.model, self.optimizer = to_fake(model), None  # type: Any, Any
            with self.watching() as live:
                self.optimizer = live.optimizer = method.make_optimizer(self.model, experiment)
        self.before.append(Moment("load", "", live))
        kind = {MixedPrecision.bf16: torch.bfloat16, MixedPrecision.fp16: torch.float16}.get(
            experiment.mixed_precision
        )
        self.engine = Engine(partial(torch.autocast, "cpu", dtype=kind) if kind else nullcontext)

    @contextmanager
    def faking(self) -> Iterator[None]:
        """Fake tensors inside."""
        # bitsandbytes takes a second to import.
        with (
            patch_quantization_tables()
            if self.experiment.optimizer is Optimizer.adamw_8bit
            else nullcontext(),
            self.mode,
        ):
            yield

    def watching(self) -> MemoryBreakdown:
        """Counts what is alive inside."""
        return MemoryBreakdown(self.model, self.optimizer, self.mode.watch)

    def moments(self, size: int) -> Iterator[Moment]:
        """Every moment whose memory differs, with `size` rows: from the load to an evaluation."""
        yield from self.before
        yield self.train("first step", size)  # the optimizer's states appear
        if getattr(self.optimizer, "refresh_interval", 0):
            yield self.train("steady step", size)
        yield from self.later(size)
        yield self.evaluate(self.experiment.eval_batch_size or size)

    def later(self, size: int) -> Iterator[Moment]:
        """The train steps after the first that need the most: what a method renews or changes in turn is in them."""
        optimizer: Any = self.optimizer
        phases = optimizer.costly_phases() if hasattr(optimizer, "costly_phases") else []
        for phase in phases:
            yield self.train(
                f"switch to phase {phase}", size, partial(optimizer.enter_phase, phase)
            )
            yield self.train(f"step of phase {phase}", size)
        if not phases and getattr(optimizer, "refresh_interval", None):
            optimizer.refresh_interval = 1
            yield self.train("refresh step", size)
        elif not phases:
            yield self.train("steady step", size)

    def largest_batch(self, limit: float, top: Moment) -> dict:
        """The largest `batch_size` that needs at most `limit` GiB; `top` is the costliest moment at the run's own."""
        start, known = self.experiment.batch_size, needed_gib(top)

        def needed(rows: int) -> float:
            if rows == start:
                return known
            moments = list(self.later(rows))
            if top.phase == "evaluate":  # else training the same rows needs more
                moments.append(self.evaluate(self.experiment.eval_batch_size or rows))
            return needed_gib(costliest_moment(moments))

        size, tried = find_largest_batch(
            needed, limit, start, known - top.bytes["activations"] / GIB
        )
        return {
            "gib": limit,
            "batch_size": size,
            "needed_gib": {str(rows): round(tried[rows], 4) for rows in sorted(tried)},
        }

    def train(self, name: str, size: int, before: Callable[[], Any] = lambda: None) -> Moment:
        """One optimizer step."""
        batch = self._batch(size, self.experiment.packing)
        batches = [batch] * self.experiment.gradient_accumulation_steps
        with self.faking(), self.watching() as live:
            before()
            train_step(
                self.model.train(),
                self.optimizer,
                batches,
                batch.label_tokens * len(batches),
                self.experiment.max_grad_norm,
                self.engine,
            )
        return Moment("train", name, live)

    @torch.no_grad()
    def evaluate(self, size: int) -> Moment:
        """One evaluation batch, with the optimizer's states still there."""
        batch = self._batch(size)
        with self.faking(), self.watching() as live, self.engine.autocast():
            torch.zeros(()).add_(summed_loss(self.model.eval(), batch))
        return Moment("evaluate", "", live)

    def _batch(self, size: int, packed: bool = False) -> Batch:
        gc.collect()  # what the last step left in cycles must not count in this one
        return fake_batch(make_worst_batch(size, self.experiment.max_length, packed), self.mode)

    def assumptions(self) -> list[str]:
        """What the figures stand on."""
        experiment = self.experiment
        lines = [
            f"one device; each row has max_length={experiment.max_length} tokens and every token is a label (the "
            "output head runs on all positions)"
        ]
        if experiment.model.attention not in (None, *IN_FAKE):
            lines.append(
                f"attention={experiment.model.attention} is taken to keep what {IN_FAKE[0]} keeps"
            )
        if experiment.model.liger:
            lines.append("model.liger=true is taken to keep what the layers without it keep")
        if experiment.mixed_precision is not MixedPrecision.no:
            lines.append(
                "autocast by the CPU's list of operations; the gradient scaler's few scalars are left out"
            )
        if experiment.num_processes > 1:
            lines.append(
                "one rank of several, without the buckets in which gradients stay from step to step"
            )
        return lines


def make_worst_batch(size: int, length: int, packed: bool = False) -> Batch:
    """`size` rows of `length` tokens, all labels. When packed the last holds two examples, so that there is a mask."""
    full, most, least = (
        Row(array("i", bytes(4 * tokens)), ((1, tokens),)) for tokens in (length, length - 1, 1)
    )
    return collate([full] * (size - 1) + [join_rows([most, least]) if packed else full], pad=0)
