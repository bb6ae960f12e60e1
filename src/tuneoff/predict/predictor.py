"""The predictor: a method's own hooks and `step.py` on fake tensors, phase by phase, with what was alive at each peak.

No method is described here a second time: a new one is predicted without writing anything.
"""

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from tuneoff.config import ConfigError, Experiment, MixedPrecision, Optimizer
from tuneoff.data import Batch
from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.measure.memory_peaks import GIB
from tuneoff.measure.operations import OperationCounts
from tuneoff.methods import Method
from tuneoff.models.checks import check_table_of_positions, find_causal_setting
from tuneoff.models.loading import build_model
from tuneoff.models.precision import cast_trainable
from tuneoff.predict.batches import TypicalRows, make_worst_batch
from tuneoff.predict.fake_mode import FakeMode
from tuneoff.predict.fake_tensors import fake_batch, patch_quantization_tables, to_fake
from tuneoff.predict.forecast import forecast_time
from tuneoff.predict.largest_batch import find_largest_batch
from tuneoff.predict.prediction import (
    Moment,
    costliest_moment,
    list_not_predicted,
    needed_gib,
    prediction_content,
)
from tuneoff.predict.run_length import find_run_length
from tuneoff.predict.step_time import TypicalStep, choose_spread
from tuneoff.predict.unknown_values import refuse_values
from tuneoff.training.embedding_noise import add_embedding_noise
from tuneoff.training.step import Engine, summed_loss, train_step

FAKE_ATTENTION = ("sdpa", "eager")  # what runs on fake CPU tensors
HALF_PRECISION = {MixedPrecision.bf16: torch.bfloat16, MixedPrecision.fp16: torch.float16}
Action = Callable[[], Any]
NEVER = 10**9  # steps between two refreshes
SAMPLED_PHASES = 3  # of those that a method goes through; their mean stands for all


def predict(experiment: Experiment, method: Method) -> dict:
    """Predict what training would take: prediction.json without a run's own keys, all in GiB of 2^30 bytes.

    Raises:
        ConfigError: a setting that cannot be predicted, or that the model shows to be wrong.
    """
    # A prediction asks no GPU, since it would take memory on it: auto is what it becomes on one that has bfloat16.
    settled = experiment.settle_precision(has_bfloat16=True)
    with refuse_values(experiment):
        return _predict(settled, method)


def _predict(experiment: Experiment, method: Method) -> dict:
    """Predict, as `predict` says."""
    predictor = Predictor(experiment, method)
    gc.freeze()  # what is there by now stays; looking through it between steps would cost a tenth of the time
    try:
        # As in a run that is long enough for whatever the method does in turn.
        parameters = method.count_parameters(predictor.model, predictor.optimizer, math.inf)
        moments = list(predictor.moments(experiment.batch_size))
        not_predicted = list_not_predicted(experiment)
        content = prediction_content(moments, predictor.assumptions(), not_predicted)
        prediction = {"parameters": parameters, **content}
        if experiment.gib is not None:
            costliest = costliest_moment(moments)
            prediction["largest_batch"] = predictor.largest_batch(experiment.gib, costliest)
        if experiment.device is not None:
            length = find_run_length(experiment)
            steps = list(predictor.typical_steps(length.rows))
            prediction["time"] = forecast_time(experiment, steps, length)
        return prediction
    finally:
        gc.unfreeze()


class Predictor:
    """One variant on fake tensors. Making it goes through the phases before the first step."""

    def __init__(self, experiment: Experiment, method: Method):
        self.experiment = experiment
        self.mode = FakeMode()
        # The method prepares a model on meta, where nothing has values.
        with torch.device("meta"):
            model = self._build_model()
            with MemoryBreakdown(model) as prepare_live:
                model = method.prepare(model)
                cast_trainable(model, experiment.trainable_dtype)
                prepare_live.model = model
        # The optimizer is made over the model's fake copy.
        self.optimizer: Any = None
        with self.faking():
            self.model: Any = to_fake(model)
            add_embedding_noise(self.model, experiment.neftune_alpha)
            with self.watching() as load_live:
                self.optimizer = method.make_optimizer(self.model, experiment)
                load_live.optimizer = self.optimizer
        # Its own, before a moment sets it to 1.
        self.refresh_interval: int = getattr(self.optimizer, "refresh_interval", 0)
        self.moments_before_training = [
            Moment("prepare", "", prepare_live),
            Moment("load", "", load_live),
        ]
        after_backward = partial(method.after_backward, self.model)
        self.engine = Engine(self._autocast(), after_backward=after_backward)

    def _build_model(self) -> Any:
        """The model, with an attention that runs on fake tensors."""
        settings = self.experiment.model
        attention = settings.attention
        if attention not in FAKE_ATTENTION:
            settings.attention = None
        model = build_model(self.experiment)
        settings.attention = attention
        # Of a model on the hub this is not known before its configuration is read.
        if settings.pretrained and getattr(model.config, "quantization_config", None):
            allowed = "a prediction does not cover quantised weights"
            raise ConfigError("model.path", settings.path, allowed)
        check_table_of_positions(model, self.experiment, self.experiment.max_length)
        return model

    def _autocast(self) -> Any:
        dtype = HALF_PRECISION.get(self.experiment.mixed_precision)
        if dtype is None:
            return nullcontext
        return partial(torch.autocast, "cpu", dtype=dtype)

    @contextmanager
    def faking(self) -> Iterator[None]:
        """Fake tensors inside."""
        tables: Any = nullcontext()
        # Only where it is needed: bitsandbytes takes a second to import.
        if self.experiment.optimizer is Optimizer.adamw_8bit:
            tables = patch_quantization_tables()
        with tables, self.mode:
            yield

    def watching(self) -> MemoryBreakdown:
        """Counts what is alive inside."""
        return MemoryBreakdown(self.model, self.optimizer, self.mode.watch)

    def moments(self, size: int) -> Iterator[Moment]:
        """Every moment whose memory differs, with `size` rows: from the load to an evaluation."""
        yield from self.moments_before_training
        yield self.train("first step", size)  # the optimizer's states appear
        if getattr(self.optimizer, "refresh_interval", 0):
            yield self.train("steady step", size)
        yield from self.later_moments(size)
        yield self.evaluate(self.experiment.eval_batch_size or size)

    def later_moments(self, size: int) -> Iterator[Moment]:
        """The train steps after the first that need the most: what a method renews or changes in turn is in them."""
        optimizer = self.optimizer
        phases = []
        if hasattr(optimizer, "costly_phases"):
            phases = optimizer.costly_phases()
        for phase in phases:
            enter = partial(optimizer.enter_phase, phase)
            yield self.train(f"switch to phase {phase}", size, enter)
            yield self.train(f"step of phase {phase}", size)
        if phases:
            return
        if getattr(optimizer, "refresh_interval", None):
            optimizer.refresh_interval = 1
            yield self.train("refresh step", size)
        else:
            yield self.train("steady step", size)

    def typical_steps(self, rows: TypicalRows) -> Iterator[TypicalStep]:
        """What a run's steps are made of: each kind of step with its share of all."""
        optimizer = self.optimizer
        refreshing = 1 / self.refresh_interval if self.refresh_interval else 0.0
        phases: list[int] = []
        if hasattr(optimizer, "phases_of_cycle"):
            phases = choose_spread(optimizer.phases_of_cycle(), SAMPLED_PHASES)
        for phase in phases:
            enter = partial(optimizer.enter_phase, phase)
            yield TypicalStep(refreshing / len(phases), self.count(rows, enter))
            yield TypicalStep((1 - refreshing) / len(phases), self.count(rows))
        if phases:
            return
        if refreshing:
            optimizer.refresh_interval = 1
            yield TypicalStep(refreshing, self.count(rows))
            optimizer.refresh_interval = NEVER
        yield TypicalStep(1 - refreshing, self.count(rows))

    def largest_batch(self, limit: float, costliest: Moment) -> dict:
        """The largest `batch_size` that needs at most `limit` GiB; `costliest` is the costliest moment at the run's."""
        start = self.experiment.batch_size
        eval_rows = self.experiment.eval_batch_size
        needed_at_start = needed_gib(costliest)
        # Of rows whose number does not change; other evaluations need less than training the same rows, or the most.
        evaluation = self.evaluate(eval_rows) if eval_rows else None
        if evaluation is not None and needed_gib(evaluation) > limit:
            blamed = f"eval_batch_size={eval_rows} alone needs {needed_gib(evaluation):.2f}"
            return {"gib": limit, "batch_size": 0, "needed_gib": {}, "reason": blamed}

        def needed(rows: int) -> float:
            """The GiB that a batch of so many rows needs."""
            if rows == start:
                return needed_at_start
            moments = list(self.later_moments(rows))
            if evaluation is not None:
                moments.append(evaluation)
            elif costliest.phase == "evaluate":
                moments.append(self.evaluate(rows))
            return needed_gib(costliest_moment(moments))

        activations = costliest.bytes_by_category["activations"] / GIB
        size, tried = find_largest_batch(needed, limit, start, needed_at_start - activations)
        needed_by_rows = {}
        for rows, gib in sorted(tried.items()):
            needed_by_rows[str(rows)] = round(gib, 4)
        return {
            "gib": limit,
            "batch_size": size,
            "needed_gib": needed_by_rows,
        }

    def train(self, name: str, size: int, before: Action | None = None) -> Moment:
        """One optimizer step; `before` is called where what it allocates counts to the step."""
        batch = self._batch(size, self.experiment.packing)
        with self.faking(), self.watching() as live:
            self._take_step(batch, before)
        return Moment("train", name, live)

    def count(self, rows: TypicalRows, before: Action | None = None) -> OperationCounts:
        """What one optimizer step on typical rows asks of a device; `before` is called where that counts to it."""
        batch = fake_batch(rows.make_batch(self.experiment.batch_size), self.mode)
        with self.faking(), self.mode.count_operations() as counts:
            self._take_step(batch, before)
        return counts

    def _take_step(self, batch: Batch, before: Action | None) -> None:
        """One optimizer step, on the same batch in each micro-step."""
        batches = [batch] * self.experiment.gradient_accumulation_steps
        if before is not None:
            before()
        train_step(
            self.model.train(),
            self.optimizer,
            batches,
            batch.label_tokens * len(batches),
            self.experiment.max_grad_norm,
            self.engine,
        )

    @torch.no_grad()
    def evaluate(self, size: int) -> Moment:
        """One evaluation batch, with the optimizer's states still there."""
        batch = self._batch(size)
        with self.faking(), self.watching() as live, self.engine.autocast():
            loss = summed_loss(self.model.eval(), batch)
            torch.zeros(()).add_(loss)
        return Moment("evaluate", "", live)

    def _batch(self, size: int, packed: bool = False) -> Batch:
        gc.collect()  # what the last step left in cycles must not count in this one
        batch = make_worst_batch(size, self.experiment.max_length, packed)
        return fake_batch(batch, self.mode)

    def assumptions(self) -> list[str]:
        """What the figures stand on."""
        experiment = self.experiment
        lines = [
            f"one device; each row has max_length={experiment.max_length} tokens and every token is a label (the "
            "output head runs on all positions)"
        ]
        causal_setting = find_causal_setting(self.model)
        if causal_setting:
            lines.append(
                f"the model is causal though its config says {causal_setting}=false: training asks its weights, "
                "and refuses a model in which a token sees those after it"
            )
        attention = experiment.model.attention
        if attention not in (None, *FAKE_ATTENTION):
            lines.append(f"attention={attention} is taken to keep what {FAKE_ATTENTION[0]} keeps")
        for key, used in (("model.liger", experiment.model.liger), ("compile", experiment.compile)):
            if used:
                lines.append(f"{key}=true is taken to keep what the layers without it keep")
        if experiment.mixed_precision is not MixedPrecision.no:
            lines.append(
                "autocast by the CPU's list of operations; the gradient scaler's few scalars are left out"
            )
        if experiment.num_processes > 1:
            lines.append(
                "one rank of several, without the buckets in which gradients stay from step to step"
            )
        return lines
