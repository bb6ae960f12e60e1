"""Evaluation: a run's loss on its validation and its test split, and on a second set."""

import math
import time
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tuneoff import data
from tuneoff.config import ConfigError
from tuneoff.training.best_step import BestStep, Losses
from tuneoff.training.failures import check_evaluation
from tuneoff.training.session import Session
from tuneoff.training.step import Engine, summed_loss


@dataclass(frozen=True)
class SecondSet:
    """A data set beside the run's own, whose loss before and after training says what was forgotten."""

    name: str
    rows_by_set: dict[str, list[data.Row]]  # of one set alone under the empty name
    fingerprint: str

    def facts(self) -> dict:
        """What the record says about it."""
        rows = list(chain.from_iterable(self.rows_by_set.values()))
        return {
            "data": self.name,
            "rows": len(rows),
            "fingerprint": self.fingerprint,
            "tokens": sum(row.labels for row in rows),
        }


def load_second_set(session: Session, tokenizer: PreTrainedTokenizerBase) -> SecondSet | None:
    """Read the validation rows of `forgetting.data`, or of a set that has none of them the test rows.

    Raises:
        ConfigError: data that cannot be read, or that have neither.
    """
    settings = session.experiment.forgetting.data
    if settings is None:
        return None
    try:
        with session.peaks.phase("evaluate"):
            dataset = data.load_dataset(settings, tokenizer, session.experiment.max_length)
    except ConfigError as error:
        raise ConfigError(f"forgetting.{error.key}", error.value, error.allowed) from error
    rows_by_set = dataset.rows_by_set("test") | dataset.rows_by_set("validation")
    for name, member in settings.members.items():
        label = name if settings.sets else ""
        if label not in rows_by_set:
            key = f"forgetting.data.sets.{name}.path" if settings.sets else "forgetting.data.path"
            raise ConfigError(key, member.path, "has neither validation nor test rows")
    return SecondSet(settings.name, rows_by_set, dataset.fingerprint)


class Evaluation:
    """Losses per label token, and what they were at the stages of the run."""

    def __init__(
        self,
        session: Session,
        model: Any,
        engine: Engine,
        dataset: data.DataSet,
        second_set: SecondSet | None,
        pad_token_id: int,
    ):
        self.session = session
        self.model = model
        self.engine = engine
        self.dataset = dataset
        self.second_set = second_set
        self.pad_token_id = pad_token_id
        self.losses = no_losses()
        self.losses_by_set: dict[str, dict[str, float]] = {}  # by stage, then by set
        self.second_set_losses: dict[str, float] = {}  # before and after training
        self.second_set_losses_by_set: dict[str, dict[str, float]] = {}
        self.best_step = BestStep(session.experiment)
        self.evaluated_at = -1  # the step after which the validation split was last evaluated

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "losses": self.losses,
            "losses_by_set": self.losses_by_set,
            "second_set_losses": self.second_set_losses,
            "second_set_losses_by_set": self.second_set_losses_by_set,
            "best_step": self.best_step.state(),
            "evaluated_at": self.evaluated_at,
        }

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave."""
        self.losses = state["losses"]
        self.losses_by_set = state.get("losses_by_set", {})
        self.second_set_losses = state["second_set_losses"]
        self.second_set_losses_by_set = state.get("second_set_losses_by_set", {})
        if "best_step" in state:  # not in a checkpoint of an earlier version
            self.best_step.restore(state["best_step"])
        self.evaluated_at = state["evaluated_at"]

    def is_due(self, step: int, ended: bool) -> bool:
        """Whether an evaluation stands before `step`: the first, one at `eval_every`, or none after it."""
        interval = self.session.experiment.eval_every
        return ended or step == 0 or (interval is not None and step % interval == 0)

    def evaluate_if_due(self, step: int, ended: bool, pauses: bool = False) -> bool:
        """Evaluate before the first step, at `eval_every`, where the run `pauses`, and when training has `ended`.

        Returns:
            Whether training ends here: it has ended, or patience did.
        """
        # A resume may stand right behind an evaluation.
        if not self.is_due(step, ended or pauses) or self.evaluated_at == step:
            return ended or self.best_step.stopped_at is not None
        losses = self.evaluate_split("validation", step)
        loss = losses.mean if losses else None
        check_evaluation(step, loss)
        if step == 0:
            self.keep("initial", losses)
        second = self.evaluate_second_set(step)
        second_loss = second.mean if second else None
        before = self.second_set_losses.get("before")
        if self.best_step.note(step, loss, second_loss, before):
            self.best_step.keep_by_set(losses, second)
        is_last = ended or self.best_step.stopped_at is not None
        if is_last:
            self.keep("final", losses)
            self.keep_second("after", second)
        self.evaluated_at = step  # not before: a signal may stop the run between the two sets
        if not is_last:
            self.session.trackers.end_step(step)
        return is_last

    def judge_best_step(self) -> None:
        """Let the losses of the best step be those that the run is judged by, where it is."""
        best = self.best_step
        if not best.used:
            return
        self.losses.setdefault("last", self.losses["final"])  # a resume may stand behind this
        for stage, losses in best.list_losses():
            if stage == "validation":
                self.keep("final", losses)
            else:
                self.keep_second("after", losses)

    def keep(self, stage: str, losses: Losses | None) -> None:
        """Keep the losses of a stage for the record: initial, final or test."""
        self.losses[stage] = losses.mean if losses else None
        if losses and losses.by_set:
            self.losses_by_set[stage] = losses.by_set

    def evaluate_split(self, split: str, step: int) -> Losses | None:
        """Return the losses on a split, and write them down; None where the split is empty."""
        if not self.dataset.splits[split]:
            return None
        started = time.perf_counter()
        losses = self.measure_losses(self.dataset.rows_by_set(split))
        loss = losses.mean
        seconds = time.perf_counter() - started
        if split == "validation":
            best = self.losses["best"] or math.inf
            self.losses["best"] = min(loss, best)
        line: dict = {
            "step": step,
            f"{split}_loss": loss,
            "evaluate_seconds": round(seconds, 3),
        }
        values: dict = {"loss": loss, "runtime": round(seconds, 3)}
        if losses.by_set:
            line[f"{split}_loss_by_set"] = losses.by_set
            values["loss_by_set"] = losses.by_set
        self.session.recorder.log(line)
        place = "eval" if split == "validation" else split
        self.session.trackers.log({place: values}, step)
        return losses

    def evaluate_test(self, step: int) -> None:
        """Evaluate the test split, if the run asks for it."""
        if self.session.experiment.test:
            self.keep("test", self.evaluate_split("test", step))

    def evaluate_second_set(self, step: int) -> Losses | None:
        """Return the losses on the second set, if there is one, and write them down."""
        if self.second_set is None:
            return None
        losses = self.measure_losses(self.second_set.rows_by_set)
        if step == 0:
            self.keep_second("before", losses)
        line: dict = {"step": step, "second_set_loss": losses.mean}
        if losses.by_set:
            line["second_set_loss_by_set"] = losses.by_set
        self.session.recorder.log(line)
        self.session.trackers.log({"eval": {"second_set_loss": losses.mean}}, step)
        return losses

    def keep_second(self, when: str, losses: Losses | None) -> None:
        """Keep the losses on the second set, before or after training."""
        if losses is None:
            return
        self.second_set_losses[when] = losses.mean
        if losses.by_set:
            self.second_set_losses_by_set[when] = losses.by_set

    def measure_losses(self, rows_by_set: dict[str, list[data.Row]]) -> Losses:
        """The loss on rows, over all ranks, set by set where there are several; all must call."""
        by_set = {name: self.mean_loss(rows) for name, rows in rows_by_set.items()}
        if list(by_set) == [""]:
            return Losses(by_set[""], {})
        summed = 0.0
        labels = 0
        for name, rows in rows_by_set.items():
            labels_of_set = sum(row.labels for row in rows)
            summed += by_set[name] * labels_of_set
            labels += labels_of_set
        return Losses(summed / labels, by_set)

    @torch.no_grad()
    def mean_loss(self, rows: list[data.Row]) -> float:
        """Negative log-likelihood per label token of `rows`, over all ranks; all must call."""
        experiment = self.session.experiment
        ranks = self.session.ranks
        size = experiment.eval_batch_size or experiment.batch_size
        batches = data.evaluation_batches(rows, size, self.pad_token_id, ranks.index, ranks.count)
        self.model.eval()
        summed = torch.zeros((), device=ranks.device)
        with self.session.peaks.phase("evaluate"):
            for batch in batches:
                with self.engine.autocast():
                    summed += summed_loss(self.model, batch.to(ranks.device))
                self.session.stop_if_asked()
            sums = ranks.gather_with_peaks(summed.item(), self.session.peaks)
        return sum(sums) / sum(row.labels for row in rows)


def no_losses() -> dict[str, float | None]:
    """The record's `loss` before anything was evaluated."""
    return {"initial": None, "final": None, "best": None, "test": None}
