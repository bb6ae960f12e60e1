"""The training loop: any method's model and optimizer through `step.py`, measured at every step. Knows no method."""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from tuneoff import data
from tuneoff.config import ConfigError, Experiment, MixedPrecision, derive_seed
from tuneoff.distributed.launch import get_rank
from tuneoff.distributed.ranks import Ranks
from tuneoff.measure.memory_breakdown import MemoryBreakdown, keep_highest_peak
from tuneoff.measure.memory_peaks import PhasePeaks, to_gib
from tuneoff.measure.throughput import Throughput
from tuneoff.methods import Method
from tuneoff.models import optimizers
from tuneoff.models.checks import (
    check_causality,
    check_embeddings,
    check_packing,
    max_positions,
)
from tuneoff.models.layers import count_parameters
from tuneoff.models.loading import load_model, runtime_facts
from tuneoff.models.tokenizer import load_tokenizer
from tuneoff.record import Recorder
from tuneoff.training import checkpoint
from tuneoff.training.provenance import collect_provenance, hash_weights
from tuneoff.training.schedule import Schedule
from tuneoff.training.step import Engine, summed_loss, train_step
from tuneoff.training.task_metrics import TaskMetrics
from tuneoff.training.trackers import Trackers, available_trackers

log = logging.getLogger(__name__)


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer a number."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM came, a checkpoint was written, and the run stopped at a step's end."""


class Trainer:
    """One run's parts and how they work together. Knows no method."""

    def __init__(self, experiment: Experiment, method: Method, recorder: Recorder):
        if experiment.mixed_precision is MixedPrecision.fp16 and not torch.cuda.is_available():
            raise ConfigError(
                "mixed_precision",
                experiment.mixed_precision,
                "needs a CUDA device; bf16 works on a CPU",
            )
        self.experiment, self.method, self.recorder = experiment, method, recorder
        self.ranks = Ranks(
            mixed_precision=experiment.mixed_precision.name,
            project_dir=recorder.folder,
            log_with=None if get_rank() else available_trackers(experiment) or None,
        )
        recorder.folder = self.ranks.gather(recorder.folder.absolute())[0]
        self.accelerator, self.device = self.ranks.accelerator, self.ranks.device
        self.trackers = Trackers(self.accelerator)
        self.meter, self.throughput = PhasePeaks(self.device), Throughput()
        self.losses: dict[str, float | None] = {
            "initial": None,
            "final": None,
            "best": None,
            "test": None,
        }
        self.metrics = TaskMetrics(experiment, recorder, self.meter, self.ranks)
        self.parameters, self.breakdown, self.facts = {}, {}, {}  # type: dict[str, int], dict, dict
        self.checkpoints = recorder.folder / "checkpoints"
        self.step, self.evaluated_at = 0, -1
        self.asked_to_stop = self.stopping = False  # here; and by all ranks together
        self.peaks: Sequence[dict] = []  # of all ranks, when they last met
        self.bar = tqdm(
            disable=True
        )  # the real one appears when training begins: a refusal is one line

    # ------------------------------------------------------------ before
    def load(self, start: dict) -> None:
        """Load model and data, let the method prepare them, and write run.json; resume where there is a checkpoint."""
        experiment = self.experiment
        saved = checkpoint.load_newest(self.checkpoints) if experiment.resume != "never" else None
        origin = collect_provenance(experiment, self.device)
        self.recorder.start(
            {
                **start,
                "method": experiment.method,
                "seed": experiment.seed,
                "provenance": origin,
                "tracker_id": f"{start.get('identity', 'run')}-{time.time_ns():x}",
                "budget": dict(zip(("kind", "value"), experiment.budget, strict=True)),
            },
            saved.loop if saved else None,
        )
        with self.meter.phase("load"):
            self.tokenizer = load_tokenizer(experiment.model)
            self.data = data.load_dataset(experiment.data, self.tokenizer, experiment.max_length)
            with self._drawing("modules"):
                model = load_model(experiment)
                origin["base_weights_hash"] = hash_weights(model)
                ran = runtime_facts(model, experiment)
                check_embeddings(model, experiment, *self.data.extent())
                self.model = self.method.prepare(model).to(self.device)
            check_causality(self.model, experiment)
            if experiment.packing:
                check_packing(self.model)
            self.optimizer = self.method.make_optimizer(self.model, experiment)
            self.parameters = count_parameters(
                self.model, self.method.ever_trained(self.model, self.optimizer)
            )
            self.wrapped, self.stepper = self.ranks.join(
                self.model, self.optimizer, experiment.batch_size, experiment.max_grad_norm
            )
        self.metrics.load(self.data, self.tokenizer, max_positions(self.model))
        self._plan()
        torch.manual_seed(
            derive_seed(
                experiment.seed, f"dropout/{self.ranks.index}" if self.ranks.index else "dropout"
            )
        )
        if saved:
            self._restore(saved)
        elif self.ranks.first:
            shutil.rmtree(self.checkpoints, ignore_errors=True)  # of a run that this one replaces
        origin.update(
            data=self.data.facts(),
            batch_order_hash=self.plan.order_hash(min(100, self.known_steps)),
        )
        self.recorder.describe(
            {
                "optimizer": optimizers.optimizer_facts(self.optimizer),
                **ran,
                "facts": self.method.facts(self.model),
                "parameters": self.parameters,
            }
        )
        self.trackers.start(experiment, self.recorder.run, self.recorder.folder)
        log.info("%s: %s", experiment.data.name, self.data.summary())
        log.info("an example, its trained part in «»:\n%s", self.data.example)

    @contextmanager
    def _drawing(self, purpose: str) -> Iterator[None]:
        """Draw from torch's global generator under a seed of this purpose alone."""
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.experiment.seed, purpose))
            yield

    def _plan(self) -> None:
        """Order, budget in steps, schedule, and the steps whose memory is counted."""
        experiment = self.experiment
        kind, value = experiment.budget
        rows = self.data.splits["train"]
        self.plan = data.StepOrder(
            data.pack_rows(rows, experiment.max_length) if experiment.packing else rows,
            experiment.seed,
            experiment.batch_size * experiment.gradient_accumulation_steps * self.ranks.count,
            value if kind == "epochs" else None,
            experiment.group_by_length,
        )
        self.schedule = Schedule(experiment, self.plan.count_steps(kind, value))
        self.known_steps = int(min(self.schedule.total_steps, 200))
        interval = getattr(self.optimizer, "refresh_interval", 0)
        # One step for each phase of the method's cycle, and the one with the longest batch.
        self.counted = {0, interval, self.plan.find_longest_step(self.known_steps)}
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.schedule.rate_factor)
        self.engine = Engine(
            self.accelerator.autocast,
            self.accelerator.backward,
            partial(self.accelerator.unscale_gradients, self.stepper),
            partial(self.ranks.unsynchronised, self.wrapped),
        )

    # ------------------------------------------------------------ during
    def fit(self) -> None:
        """Train from `self.step` to the end of the budget; evaluate before, at `eval_every`, and at the end."""
        total = self.schedule.total_steps
        self.bar = tqdm(
            total=None if math.isinf(total) else int(total),
            initial=self.step,
            unit="step",
            disable=not (self.experiment.progress and self.ranks.first),
            dynamic_ncols=True,
        )
        with self.meter.phase("train"):
            while True:
                ended = self.schedule.ended(self.step)
                self._evaluate_if_due(ended)
                if ended:
                    break
                self._one_step(self.step)
                self.step += 1
                if self.stopping or (
                    self.experiment.save_every and self.step % self.experiment.save_every == 0
                ):
                    self._save()
                if self.stopping:
                    raise Interrupted(
                        f"stopped by SIGTERM after step {self.step}; resume=auto goes on from there"
                    )

    def _evaluate_if_due(self, ended: bool) -> None:
        due = (
            ended
            or self.step == 0
            or (self.experiment.eval_every and self.step % self.experiment.eval_every == 0)
        )
        if (
            not due or self.evaluated_at == self.step
        ):  # a resume may stand right behind an evaluation
            return
        loss = self.evaluate("validation", self.step)
        self.evaluated_at = self.step
        for now, name, when in ((self.step == 0, "initial", "before"), (ended, "final", "after")):
            if now:
                self.losses[name] = loss
                self.metrics.look_elsewhere(when, self.step, self.mean_loss)

    def stop(self) -> None:
        """Save and stop at the end of the step that runs now."""
        self.asked_to_stop = True

    def _save(self) -> None:
        if self.ranks.deepspeed:  # SIGTERM stops it all the same; `save_every` is refused
            return
        ever = self.method.ever_trained(self.model, self.optimizer)
        tensors, state = checkpoint.collect_state(self.model, ever, self.optimizer, self.ranks)
        if not self.ranks.first:
            return
        loop = {
            "evaluated_at": self.evaluated_at,
            "losses": self.losses,
            "throughput": vars(self.throughput),
            "breakdown": self.breakdown,
            "wall_seconds": self.recorder.wall_seconds(),
            "peaks": self.peaks,
            "elsewhere": self.metrics.elsewhere,
        }
        checkpoint.save_checkpoint(
            self.checkpoints, self.step, tensors, state, loop, self.experiment.keep_checkpoints
        )

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.restore_state(saved, self.model, self.optimizer, self.ranks)
        loop = saved.loop
        self.step, self.evaluated_at, self.losses = (
            loop["step"],
            loop["evaluated_at"],
            loop["losses"],
        )
        vars(self.throughput).update(loop["throughput"])
        self.breakdown, self.meter.peaks = loop["breakdown"], loop["peaks"][self.ranks.index]
        self.metrics.elsewhere = loop["elsewhere"]
        self.schedule.seconds = self.throughput.train_seconds
        self.rates.last_epoch = self.step
        log.info("resumed after step %d", self.step)

    def _one_step(self, step: int) -> None:
        rows, counted = self.plan.step_rows(step), step in self.counted
        size, started = self.experiment.batch_size, time.perf_counter()
        parts = data.split_between_ranks(
            [rows[i : i + size] for i in range(0, len(rows), size)],
            self.ranks.index,
            self.ranks.count,
        )
        batches = [
            data.collate(part, self.tokenizer.pad_token_id).to(self.device) for part in parts
        ]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model.train()
        live = (
            MemoryBreakdown(self.model, self.optimizer)
            if counted and not self.ranks.sharded
            else None
        )
        with live or nullcontext():
            result = train_step(
                self.wrapped,
                self.stepper,
                batches,
                sum(row.labels for row in rows) / self.ranks.count,
                self.experiment.max_grad_norm,
                self.engine,
            )
        loss, norm = result.loss.item(), self.ranks.whole(result.gradient_norm).item()
        losses, padded, stops, clocks = zip(
            *self._gather(
                (
                    loss,
                    sum(batch.input_ids.numel() for batch in batches),
                    self.asked_to_stop,
                    time.perf_counter() - started,
                )
            ),
            strict=True,
        )
        # The others may have waited for the first one, which writes: its clock alone measures a step.
        loss, seconds, self.stopping = sum(losses) / self.ranks.count, clocks[0], any(stops)
        self.schedule.seconds += seconds
        self.rates.step()
        self.throughput.add(
            seconds,
            sum(len(row.ids) for row in rows),
            sum(padded),
            sum(len(data.example_starts(row)) for row in rows),
            not counted,
        )
        if live:
            keep_highest_peak(self.breakdown, live.peak(), step + 1)
        self._log_step(step + 1, loss, norm, rates, seconds)
        self._refuse_non_finite(step + 1, loss, norm)

    def _log_step(
        self, step: int, loss: float, norm: float, rates: list[float], seconds: float
    ) -> None:
        line = {
            "step": step,
            "loss": loss,
            "lr": rates,
            "gradient_norm": norm,
            "tokens": self.throughput.tokens_seen,
            "step_seconds": round(seconds, 6),
        }
        self.recorder.log(line)
        speed = self.throughput.tokens_per_second
        groups = {str(index): rate for index, rate in enumerate(rates)}
        self.trackers.log(
            {
                "train": {
                    "loss": loss,
                    "gradient_norm": norm,
                    "tokens": line["tokens"],
                    "tokens_per_second": speed,
                },
                "lr": groups,
            },
            step,
        )
        self.bar.update()
        if self.experiment.progress:
            self.bar.set_postfix_str(
                f"loss {loss:.3f}, {speed or 0:.0f} tokens/s, {self.meter.current_gib():.2f} GiB"
            )

    def _refuse_non_finite(self, step: int, loss: float, norm: float) -> None:
        # Under fp16 the loss scale makes gradients overflow now and then, and accelerate skips that step.
        scaled = self.experiment.mixed_precision is MixedPrecision.fp16
        if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
            raise Diverged(f"diverged at step {step}: loss {loss}, gradient norm {norm}")

    def evaluate(self, split: str, step: int) -> float | None:
        """Per-token negative log-likelihood of a split, token-weighted; None where the split is empty."""
        rows = self.data.splits[split]
        if not rows:
            return None
        started = time.perf_counter()
        loss = self.mean_loss(rows)
        if split == "validation":
            self.losses["best"] = min(loss, self.losses["best"] or math.inf)
        seconds = round(time.perf_counter() - started, 3)
        self.recorder.log({"step": step, f"{split}_loss": loss, "evaluate_seconds": seconds})
        self.trackers.log({"evaluate": {f"{split}_loss": loss}}, step)
        return loss

    @torch.no_grad()
    def mean_loss(self, rows: list[data.Row]) -> float:
        """Per-token negative log-likelihood of `rows`, token-weighted."""
        self.model.eval()
        summed = torch.zeros((), device=self.device)
        with self.meter.phase("evaluate"):
            size = self.experiment.eval_batch_size or self.experiment.batch_size
            for batch in data.evaluation_batches(
                rows, size, self.tokenizer.pad_token_id, self.ranks.index, self.ranks.count
            ):
                with self.engine.autocast():
                    summed += summed_loss(self.model, batch.to(self.device))
            return sum(self._gather(summed.item())) / sum(row.labels for row in rows)

    def _gather(self, item: Any) -> list:
        """What each rank gives, in their order; each tells its memory's peaks, too."""
        items, self.peaks = zip(*self.ranks.gather((item, self.meter.so_far())), strict=True)
        return list(items)

    # ------------------------------------------------------------ after
    def conclude(self) -> None:
        """The test split once and generated answers, if asked for, and the export."""
        try:
            if self.experiment.test:
                self.losses["test"] = self.evaluate("test", self.throughput.steps)
            if not self.metrics.match_answers(
                self.model,
                self.tokenizer,
                self.step,
                self.engine.autocast,
                lambda: any(self._gather(self.asked_to_stop)),
            ):
                self._save()
                raise Interrupted(
                    "stopped by SIGTERM after the last step; resume=auto goes on from there"
                )
        except BaseException:
            # What was trained must not be lost with an answer that takes too much memory. To put a split model
            # together, the others would have to come.
            if not self.ranks.sharded:
                self._export()
            raise
        self._export()
        self.trackers.log({"metrics": self.metrics.values(self.losses)}, self.step)

    def _export(self) -> None:
        if not self.experiment.save_model:
            return
        folder = self.recorder.folder / "model"
        with self.meter.phase("export"), self._drawing("modules"):
            model = self.ranks.whole_model(
                self.model, self.wrapped, lambda: self.method.prepare(load_model(self.experiment))
            )
            if not self.ranks.first:
                return
            try:
                self.facts = self.method.export(model, folder, self.experiment.export_merged)
                self.tokenizer.save_pretrained(folder)
            except (
                BaseException
            ):  # half a model is none, and on a full disk it takes the record's room
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def measured(self) -> dict:
        """What result.json adds to run.json, as far as the run came."""
        memory = self.meter.facts(self.peaks[1:])
        parts = {name: to_gib(size) for name, size in self.breakdown.get("bytes", {}).items()}
        memory["train_breakdown_gib"] = {**parts, "at_steps": self.breakdown.get("at_steps", [])}
        metrics = self.metrics.values(self.losses)
        return {
            "parameters": self.parameters,
            "loss": self.losses,
            "memory": memory,
            "metrics": metrics,
            "metric_facts": self.metrics.facts(metrics),
            "throughput": self.throughput.facts(),
            "facts": {**self.recorder.run.get("facts", {}), **self.facts},
        }
