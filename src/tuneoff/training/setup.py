"""Set-up: everything that a run is made of, loaded and put together before its first step."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from transformers import PreTrainedTokenizerBase

from tuneoff import data
from tuneoff.config import ConfigError, Experiment, SingleSet, derive_seed
from tuneoff.distributed.sharding import StepSettings
from tuneoff.measure.flop_meter import FlopMeter
from tuneoff.measure.memory_breakdown import BreakdownPeak
from tuneoff.measure.rates import find_matrix_rate
from tuneoff.measure.throughput import Throughput
from tuneoff.models.checks import check_reloading, max_positions
from tuneoff.models.optimizers import optimizer_facts
from tuneoff.models.tokenizer import load_tokenizer
from tuneoff.training.benchmarks import Benchmarks
from tuneoff.training.best_step import check_judged_rows
from tuneoff.training.compilation import PlainLayers, compile_layers
from tuneoff.training.evaluation import Evaluation, load_second_set
from tuneoff.training.exact_match import ExactMatch
from tuneoff.training.model_setup import ModelFacts, prepare_model, refuse_together
from tuneoff.training.schedule import Schedule
from tuneoff.training.serving_prompt import check_positions
from tuneoff.training.session import Session
from tuneoff.training.step import Engine
from tuneoff.training.task_metrics import TaskMetrics, judged_split

KNOWN_STEPS = 200  # so many steps are looked through for the longest batch
HASHED_STEPS = 100  # of the data's order, in the provenance


@dataclass(frozen=True)
class Parts(Session):
    """A session, and all that was loaded and built for it."""

    # Data
    tokenizer: PreTrainedTokenizerBase
    dataset: data.DataSet
    order: data.StepOrder  # which rows a step sees
    # Model
    model: Any
    optimizer: torch.optim.Optimizer
    layers: PlainLayers  # of the decoder, compiled where the run asks for it
    wrapped_model: Any  # the model as a step calls it: DDP, FSDP or DeepSpeed around it
    stepper: Any  # the optimizer as a step calls it
    engine: Engine
    # Budget and rate
    schedule: Schedule
    lr_scheduler: torch.optim.lr_scheduler.LambdaLR
    # Measurements
    counted_steps: set[int]  # whose memory is broken down, outside the throughput figures
    throughput: Throughput
    breakdown: BreakdownPeak
    flop_meter: FlopMeter
    evaluation: Evaluation
    metrics: TaskMetrics
    # Facts for the record
    parameters: dict[str, int]
    model_facts: ModelFacts
    optimizer_facts: dict[str, Any]

    @property
    def benchmarks(self) -> Benchmarks:
        """The tasks of lm-evaluation-harness that the run asks."""
        return self.metrics.benchmarks

    def stateful(self) -> dict[str, Any]:
        """The parts whose state a checkpoint keeps, by name: each has `state()` and `restore(state)`."""
        return {
            "schedule": self.schedule,
            "throughput": self.throughput,
            "layers": self.layers,
            "breakdown": self.breakdown,
            "flop_meter": self.flop_meter,
            "peaks": self.peaks,
            "evaluation": self.evaluation,
            "benchmarks": self.benchmarks,
            "recorder": self.recorder,
        }

    def order_hash(self) -> str:
        """A hash over the rows of the first steps: equal where two runs see the same data."""
        steps = min(HASHED_STEPS, self.schedule.total_steps)
        return self.order.order_hash(int(steps))


def build(session: Session) -> Parts:
    """Load model and data, and let the method prepare them.

    Raises:
        ConfigError: what only the loaded model or data can show to be wrong.
    """
    experiment = session.experiment
    with session.peaks.phase("load"):
        benchmarks = _find_benchmarks(session)
        tokenizer, dataset, order = _load_data(session)
        schedule = Schedule(experiment, order.count_steps(*experiment.budget))
        model, model_facts = prepare_model(session, dataset, order, tokenizer.pad_token_id)
        optimizer = _make_optimizer(session, model)
        # Both are counted before an engine may split the weights over the ranks.
        parameters = session.method.count_parameters(model, optimizer, schedule.total_steps)
        described_optimizer = optimizer_facts(optimizer)
        known_steps = int(min(schedule.total_steps, KNOWN_STEPS))
        layers = compile_layers(experiment, model, order, known_steps)
        wrapped_model, stepper = session.sharding.join(model, optimizer, describe_step(experiment))
    engine = _make_engine(session, model, wrapped_model, stepper)
    evaluation, metrics = _make_metrics(session, model, engine, dataset, tokenizer, benchmarks)
    _seed_dropout(session)
    return Parts(
        **vars(session),
        tokenizer=tokenizer,
        dataset=dataset,
        order=order,
        model=model,
        optimizer=optimizer,
        layers=layers,
        wrapped_model=wrapped_model,
        stepper=stepper,
        engine=engine,
        schedule=schedule,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate_factor),
        counted_steps=_choose_counted_steps(experiment, optimizer, order, known_steps),
        throughput=Throughput(),
        breakdown=BreakdownPeak(),
        flop_meter=make_flop_meter(session, optimizer),
        evaluation=evaluation,
        metrics=metrics,
        parameters=parameters,
        model_facts=model_facts,
        optimizer_facts=described_optimizer,
    )


def _load_data(
    session: Session,
) -> tuple[PreTrainedTokenizerBase, data.DataSet, data.StepOrder]:
    """Load what is read before the model: what is wrong with data is known before a large model is."""
    experiment = session.experiment
    tokenizer = load_tokenizer(experiment.model)
    dataset = data.load_dataset(experiment.data, tokenizer, experiment.max_length)
    order = data.make_order(experiment, dataset.splits["train"], session.ranks.count)
    return tokenizer, dataset, order


def _make_optimizer(session: Session, model: Any) -> Any:
    """Return the method's optimizer; a model is refused that could not be read back with what it trains."""
    optimizer = session.method.make_optimizer(model, session.experiment)
    trained = session.method.ever_trained(model, optimizer)
    check_reloading(model, session.experiment, trained)
    return optimizer


def _find_benchmarks(session: Session) -> Benchmarks:
    """Return the benchmarks that are asked for; an unknown task is refused on every rank."""
    with refuse_together(session):
        return Benchmarks(session)


def describe_step(experiment: Experiment) -> StepSettings:
    """What an engine that steps by itself must know."""
    return StepSettings(
        batch_size=experiment.batch_size,
        max_grad_norm=experiment.max_grad_norm,
        mixed_precision=experiment.mixed_precision.name,
    )


def _seed_dropout(session: Session) -> None:
    """Seed torch's global generator, from which training draws dropout and noise alone: another on each rank."""
    rank = session.ranks.index
    purpose = f"dropout/{rank}" if rank else "dropout"
    torch.manual_seed(derive_seed(session.experiment.seed, purpose))


def _make_engine(session: Session, model: Any, wrapped_model: Any, stepper: Any) -> Engine:
    accelerator = session.ranks.accelerator
    return Engine(
        autocast=session.sharding.autocast,
        backward=accelerator.backward,
        unscale=partial(accelerator.unscale_gradients, stepper),
        unsynchronised=partial(session.sharding.without_synchronisation, wrapped_model),
        after_backward=partial(session.method.after_backward, model),
    )


def _make_metrics(
    session: Session,
    model: Any,
    engine: Engine,
    dataset: data.DataSet,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Benchmarks,
) -> tuple[Evaluation, TaskMetrics]:
    """What a run is judged by.

    Raises:
        ConfigError: no test rows where they are asked for, no questions, none with room for an answer, or no rows in
            the second set.
    """
    experiment = session.experiment
    check_test(experiment, dataset)
    check_positions(experiment, model)
    check_validation(experiment, dataset)
    check_judged_rows(experiment, bool(dataset.splits["validation"]))
    exact_match = None
    if experiment.exact_match is not None:
        split = judged_split(experiment)
        exact_match = ExactMatch(
            experiment,
            dataset.questions(split),
            split,
            dataset.answer_end_tokens(tokenizer),
            max_positions(model),
        )
    second_set = load_second_set(session, tokenizer)
    evaluation = Evaluation(session, model, engine, dataset, second_set, tokenizer.pad_token_id)
    return evaluation, TaskMetrics(experiment, evaluation, exact_match, benchmarks)


def check_test(experiment: Experiment, dataset: data.DataSet) -> None:
    """Refuse to judge on test rows where a set that trains has none.

    Raises:
        ConfigError: no test rows.
    """
    if not experiment.test or experiment.data.has_judge("test"):
        return
    judged = dataset.rows_by_set("test")
    for name, settings in experiment.data.members.items():
        if settings.only_for is not None:
            continue
        prefix = f"data.sets.{name}." if dataset.set_names else "data."
        if (name if dataset.set_names else "") not in judged:
            allowed = f"{name} has no test rows; {prefix}test_share takes some"
            raise ConfigError("test", True, allowed)


def check_validation(experiment: Experiment, dataset: data.DataSet) -> None:
    """Refuse to train what nothing would judge, unless the settings say that nothing shall.

    Raises:
        ConfigError: no validation rows.
    """
    if experiment.data.has_judge("validation"):
        return
    judged = dataset.rows_by_set("validation")
    for name, settings in experiment.data.members.items():
        label = name if dataset.set_names else ""
        dropped = dataset.dropped["validation"]
        lost_all = dropped > 0 and not label  # of several sets it is not known whose they were
        goes_without = settings.goes_without_validation() and not lost_all
        if label not in judged and not goes_without:
            prefix = f"data.sets.{name}." if label else "data."
            refuse_unjudged(experiment, settings, prefix, dropped)


def refuse_unjudged(
    experiment: Experiment, settings: SingleSet, prefix: str, dropped: int
) -> NoReturn:
    """Refuse a set without validation rows.

    Raises:
        ConfigError: always, and says how to get some.
    """
    advice = (
        f"{prefix}validation_share=0.1 takes some of the training rows, "
        f"{prefix}validation_share=0 trains without any"
    )
    if dropped:
        allowed = f"must be longer: no answer of the {dropped} validation rows begins within it"
        raise ConfigError("max_length", experiment.max_length, allowed)
    allowed = f"no validation rows, so that nothing would judge the run; {advice}"
    raise ConfigError(f"{prefix}path", settings.path, allowed)


def make_flop_meter(session: Session, optimizer: Any) -> FlopMeter:
    """What counts the operations of a run, beside the rate at which its device could do them."""
    experiment = session.experiment
    rate, source = find_matrix_rate(session.ranks.device, experiment.compute_dtype, experiment.tf32)
    return FlopMeter(rate, source, optimizer)


def _choose_counted_steps(
    experiment: Experiment,
    optimizer: Any,
    order: data.StepOrder,
    known_steps: int,
) -> set[int]:
    """One step for each phase of the method's cycle, and the one with the longest batch.

    None where layers are compiled: what these allocate passes no operation that could be watched.
    """
    if experiment.compile:
        return set()
    interval = getattr(optimizer, "refresh_interval", 0)
    return {0, interval, order.find_longest_step(known_steps)}
