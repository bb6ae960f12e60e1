"""A run, from the first line of its record to the last, whatever happens in between."""

import logging
import signal
from contextlib import closing
from pathlib import Path

from tuneoff.config import ConfigError, Experiment
from tuneoff.distributed.launch import get_rank
from tuneoff.distributed.rank_watch import RankWatch
from tuneoff.distributed.stop import STOP_SIGNALS, StopSignal, call_on_stop_signals
from tuneoff.methods import Method
from tuneoff.record import (
    RESULTS,
    RUN,
    AlreadyDone,
    NeverBegan,
    Recorder,
    SilentRecorder,
    keep_sweep,
    read_json,
)
from tuneoff.record import read_status as status_of
from tuneoff.training.benchmarks import AFTER, BEFORE
from tuneoff.training.best_weights import use_best_weights
from tuneoff.training.checkpoint import clear_checkpoints, find_resume_point, load_newest
from tuneoff.training.descriptions import (
    add_facts,
    describe_parts,
    describe_reach,
    describe_speed,
    describe_start,
    measured_before_set_up,
)
from tuneoff.training.device_settings import refuse_other_precision
from tuneoff.training.exact_match import answer_questions
from tuneoff.training.export import MODEL_FOLDER, export_model, keeps_trained_model
from tuneoff.training.failures import Interrupted, Paused, classify_error
from tuneoff.training.model_setup import refuse_together
from tuneoff.training.provenance import collect_provenance, refuse_other_inputs
from tuneoff.training.push import push_model
from tuneoff.training.run_state import restore_run_state
from tuneoff.training.serving import measure_serving
from tuneoff.training.session import open_session
from tuneoff.training.setup import Parts, build
from tuneoff.training.trainer import Trainer

log = logging.getLogger(__name__)


def train(experiment: Experiment, method: Method, folder: Path, start: dict) -> dict:
    """Train one variant in this process and write its record.

    Args:
        folder: as the first of several processes has it; the others need not know it.
        start: what run.json holds beside provenance: identity, config (resolved), command, sweep.

    Returns:
        The result, as result.json holds it; its `status` says how the run ended.

    Raises:
        ConfigError: what only the loaded model or data can show to be wrong.
        NeverBegan: the run failed before its record began, in a folder that holds an earlier one.
        Busy: another process trains in `folder`.
        AlreadyDone: under `resume`, another process has finished this run in the meantime.
    """
    recorder = SilentRecorder(folder) if get_rank() else Recorder(folder)
    with closing(recorder):
        if experiment.resume != "never" and status_of(folder) in RESULTS:
            raise AlreadyDone(f"{folder}: another process has finished this run")
        run = Run(experiment, method, recorder)
        with call_on_stop_signals(run.session.stop.set, (*STOP_SIGNALS, signal.SIGINT)):
            result = run.perform(start)
        if run.session.ranks.first:
            push_model(experiment, folder, result)
        return result


class Run:
    """One run: prepared, trained and concluded in turn; measured at any time."""

    parts: Parts  # from `prepare` on
    trainer: Trainer

    def __init__(self, experiment: Experiment, method: Method, recorder: Recorder):
        """Meet the other ranks.

        Raises:
            ConfigError: a precision that this machine does not have.
        """
        self.session = open_session(experiment, method, recorder)
        self.prepared = False
        self.taken_apart = False  # the trained model, once it is saved
        self.export_facts: dict = {}
        self.serving: dict = {}
        self.paused_after: float | None = None  # a share of the budget
        self.reach: tuple[dict[str, int], dict] | None = None  # once training has ended

    def perform(self, start: dict) -> dict:
        """Do all of the run, and write its result, which a stop signal does not keep from being written.

        Raises:
            ConfigError, NeverBegan: as `train`.
        """
        session = self.session
        status = "finished"
        error: dict | None = None
        try:
            with RankWatch(session.ranks, self.record_lost_rank):
                self.prepare(start)
                self.fit()
                self.conclude()
                session.stop.hold_to_end()
        except ConfigError:
            session.trackers.finish({})
            raise
        except BaseException as caught:  # whatever it was, the record says so
            session.stop.hold_to_end()
            status, error = session.ranks.agree_on_failure(classify_error(caught), caught)
        if error is not None and not session.recorder.begun:
            session.trackers.finish({})
            raise NeverBegan(status, error, session.folder)
        result = session.recorder.finish(status, self.measured(), error)
        if status == "finished" or self.paused_after is not None:  # all came this far together
            session.ranks.leave()
        session.trackers.finish(result)
        return result

    def prepare(self, start: dict) -> None:
        """Load everything, go on from a checkpoint where there is one, and begin the record.

        Args:
            start: what run.json holds beside what is found out here.
        """
        session = self.session
        experiment = session.experiment
        checkpoint = None
        if experiment.resume != "never":
            start = keep_sweep(start, session.folder)
            checkpoint = load_newest(
                session.checkpoint_folder,
                session.ranks.device,
                session.ranks.index,
                experiment.sharding,
            )
        if checkpoint is not None:
            refuse_other_precision(experiment, read_json(session.folder / RUN))
        provenance = collect_provenance(experiment, session.ranks.device)
        resume_point = find_resume_point(checkpoint) if checkpoint is not None else None
        session.recorder.start(describe_start(experiment, start, provenance), resume_point)
        self.parts = build(session)
        self.prepared = True
        if checkpoint is not None:
            restore_run_state(self.parts, checkpoint)
        self.trainer = Trainer(self.parts, first_step=checkpoint.step if checkpoint else 0)
        description = describe_parts(self.parts, provenance)
        if checkpoint is not None:
            self._check_inputs(description["provenance"])
        # All is read, and nothing of an earlier run was touched. From here on the folder is this run's.
        steps = session.ranks.gather(self.trainer.step)
        if len(set(steps)) > 1:
            raise OSError(f"the ranks would go on from different steps: {steps}")
        if session.ranks.first:
            clear_checkpoints(session.checkpoint_folder, checkpoint)
        session.recorder.describe(description)
        session.trackers.start(experiment, session.recorder.run, session.folder)
        log.info("%s: %s", experiment.data.name, self.parts.dataset.summary())
        for warning in description["facts"].get("warnings", []):
            log.warning("warning: %s", warning)
        log.info("an example, its trained part in «»:\n%s", self.parts.dataset.example)

    def _check_inputs(self, provenance: dict) -> None:
        """Refuse to go on with other weights or rows than the run began with; all ranks must call."""
        with refuse_together(self.session):
            earlier_run = read_json(self.session.folder / RUN)
            refuse_other_inputs(self.session.experiment, provenance, earlier_run)

    def fit(self) -> None:
        """Train to the end of the budget, or to where the run is stopped."""
        if self.session.ranks.count > 1:
            # From now on they wait for each other: none may leave alone.
            self.session.stop.hold()
        if self.trainer.step == 0 and self.session.experiment.benchmarks_before:
            try:
                self._run_benchmarks(BEFORE)
            except StopSignal:
                raise self.trainer.interrupt("before the first step") from None
        try:
            self.trainer.fit()
        except Paused:
            self.paused_after = self.session.experiment.stop_after
            raise

    def conclude(self) -> None:
        """Evaluate the test split, once, and generate answers, where the run asks for it; export the model.

        Raises:
            Interrupted: a signal came; a checkpoint is saved, from which a resume does all of this again. Of a large
                model that was already taken apart to read its export back, the export alone is left.
        """
        # An export may merge the model that was trained.
        self.reach = describe_reach(self.parts, self.trainer.step)
        try:
            self._evaluate_and_export()
        except StopSignal:
            if self.taken_apart:
                saved = self.parts.folder / MODEL_FOLDER
                raise Interrupted(
                    f"stopped by {self.session.stop.name} while the export was read back; it is in {saved}"
                ) from None
            raise self.trainer.interrupt("after the last step") from None

    def _evaluate_and_export(self) -> None:
        parts = self.parts
        try:
            use_best_weights(parts)
            parts.evaluation.judge_best_step()
            parts.evaluation.evaluate_test(self.trainer.step)
            self._answer_questions()
            self._run_benchmarks(AFTER)
            self.serving = measure_serving(parts)
        except StopSignal:
            raise
        except BaseException:
            # What was trained must not be lost with an answer that takes too much memory. To put a split model
            # together, the others would have to come.
            if not parts.sharding.splits:
                self._export()
            raise
        self._export()
        values = parts.metrics.values()
        parts.trackers.log({"metrics": values}, self.trainer.step)

    def _export(self) -> None:
        for facts in export_model(self.parts):
            self.export_facts.update(facts)
            for warning in facts.get("warnings", []):
                log.warning("%s", warning)
            self.taken_apart = not keeps_trained_model(self.parts)

    def _answer_questions(self) -> None:
        parts = self.parts
        exact_match = parts.metrics.exact_match
        if exact_match is None:
            return
        answer_questions(exact_match, parts, parts.model, parts.tokenizer, parts.engine)
        lines = exact_match.lines()
        parts.recorder.keep_answers(lines)
        parts.trackers.log_lines("answers", lines, self.trainer.step)
        line = {
            "step": self.trainer.step,
            "exact_match": exact_match.value,
            "generate_seconds": round(exact_match.seconds, 3),
        }
        parts.recorder.log(line)

    def _run_benchmarks(self, when: str) -> None:
        parts = self.parts
        parts.benchmarks.run(when, parts.model, parts.tokenizer, parts.engine)

    def record_lost_rank(self, status: str, error: dict) -> None:
        """Write the result of a run that waits for a rank which will not come; called beside its main thread."""
        recorder = self.session.recorder
        if recorder.begun:
            recorder.finish(status, self.measured(), error)

    def measured(self) -> dict:
        """What result.json adds to run.json, as far as the run came."""
        facts = dict(self.session.recorder.run.get("facts", {}))
        if not self.prepared:
            return measured_before_set_up(self.session, facts)
        parts = self.parts
        parameters, final_facts = self.reach or describe_reach(parts, self.trainer.step)
        facts |= final_facts
        add_facts(facts, self.export_facts)
        return {
            "parameters": parameters,
            "loss": parts.evaluation.losses,
            "loss_by_set": parts.evaluation.losses_by_set,
            "memory": {
                **parts.peaks.facts(),
                "train_breakdown_gib": parts.breakdown.facts(),
            },
            "metrics": parts.metrics.values(),
            "metric_facts": parts.metrics.facts(),
            "throughput": describe_speed(parts),
            "serving": self.serving,
            "paused_after": self.paused_after,
            "benchmarks": parts.benchmarks.facts(),
            "kept": parts.evaluation.best_step.facts(),
            "facts": facts,
        }
