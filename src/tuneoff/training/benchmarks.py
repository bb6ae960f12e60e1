"""Benchmarks in a run: lm-evaluation-harness asks the model in memory, before training where wanted, and after it."""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Experiment
from tuneoff.data.hub_access import explain_hub_error, prepare_hub
from tuneoff.training.model_setup import seeded
from tuneoff.training.session import Session

log = logging.getLogger(__name__)

BEFORE = "before"
AFTER = "after"
MOST_NAMES = 10  # in a message
LONGEST_REASON = 500  # characters
FILE_READERS = ("json", "csv", "parquet", "text", "arrow")  # of `datasets`, as a task names them
STANDARD_ERROR = "_stderr"


class Benchmarks:
    """The tasks of a run, and what came of them so far."""

    def __init__(self, session: Session):
        """Find the tasks, and fetch what they ask: what cannot be had is known before training.

        Raises:
            ConfigError: a name that is no task, one whose rows or packages cannot be had, or a base that the method
                does not start at.
        """
        self.session = session
        self.experiment = session.experiment
        self.results: dict[str, dict] = {}  # by when, then by task
        self.lines: list[dict] = []  # a line an example, as benchmarks.jsonl holds them
        self.seconds: dict[str, float] = {}
        self.manager: Any = None
        if not self.experiment.benchmarks:
            return
        if self.experiment.benchmarks_before and not session.method.starts_at_base:
            allowed = f"method={self.experiment.method} does not start at the base model"
            raise ConfigError("benchmarks_before", True, allowed)
        if session.ranks.first:
            self.manager = find_tasks(self.experiment)
            fetch_tasks(self.manager, self.experiment.benchmarks)

    def state(self) -> dict:
        """What a checkpoint keeps: what the base model answered, which a resume cannot ask again."""
        return {"results": self.results, "lines": self.lines, "seconds": self.seconds}

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave; what was asked after training is asked again."""
        self.results = {when: state["results"][when] for when in state["results"] if when == BEFORE}
        self.lines = [line for line in state["lines"] if line["when"] == BEFORE]
        self.seconds = dict(state["seconds"])

    def run(self, when: str, model: Any, tokenizer: Any, engine: Any) -> None:
        """Ask every task, by the first rank alone while the others wait; all ranks must call.

        The model, and what is drawn at random in training, stay as they were.
        """
        if not self.experiment.benchmarks:
            return
        session = self.session
        if session.ranks.first:
            log.info("benchmarks %s training: %s", when, ", ".join(self.experiment.benchmarks))
            started = time.perf_counter()
            with (
                session.peaks.phase("benchmark"),
                seeded(self.experiment.seed, "benchmarks"),
                engine.autocast(),
            ):
                answers = self._ask(model, tokenizer)
            self.seconds[when] = round(time.perf_counter() - started, 3)
            self.results[when] = dict(summarize(answers))
            self.lines = [line for line in self.lines if line["when"] != when]
            self.lines += list_examples(when, answers)
            session.recorder.keep_benchmarks(self.lines)
        session.ranks.gather(None)

    def _ask(self, model: Any, tokenizer: Any) -> dict:
        """The harness's own results."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        experiment = self.experiment
        size = experiment.benchmark_batch_size or experiment.eval_batch_size
        was_training = model.training
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        try:
            asked = HFLM(
                pretrained=model.eval(),
                tokenizer=tokenizer,
                backend="causal",
                batch_size=size or experiment.batch_size,
            )
            # Seeds of None: the harness would set the generators that training draws from.
            answers: Any = simple_evaluate(
                asked,
                tasks=experiment.benchmarks,
                task_manager=self.manager,
                num_fewshot=experiment.benchmark_fewshot,
                limit=experiment.benchmark_limit,
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
            return answers
        finally:
            model.train(was_training)

    # ------------------------------------------------------------ what came of it
    def values(self) -> dict[str, dict[str, float]]:
        """The record's metrics: of each task its first one, after training."""
        values = {}
        for task, result in self.results.get(AFTER, {}).items():
            name = result["metric"]
            values[task] = {name: result["metrics"][name]}
        return values

    def metric_facts(self) -> dict[str, dict]:
        """The record's metric facts: on how many examples, the standard error, and where it is 0 or 1 each score."""
        facts = {}
        for task, result in self.results.get(AFTER, {}).items():
            name = result["metric"]
            entry = {
                "rows": result["examples"],
                "standard_error": result["errors"].get(name),
                "higher_is_better": result["higher_is_better"].get(name),
            }
            scores = "".join(self._list_digits(task, name))
            if len(scores) == result["examples"]:
                entry["scores"] = scores
            facts[task] = {name: entry}
        return facts

    def _list_digits(self, task: str, metric: str) -> Iterator[str]:
        """A 1 or 0 for each example of a task that was right or wrong after training, in their order."""
        for line in self.lines:
            if line["when"] == AFTER and line["task"] == task:
                score = line["scores"].get(metric)
                if score in (0, 1):
                    yield str(int(score))

    def facts(self) -> dict:
        """The record's `benchmarks`: all metrics of all tasks, before training and after, with standard errors."""
        if not self.results:
            return {}
        return {**self.results, "seconds": self.seconds}


def find_tasks(experiment: Experiment) -> Any:
    """Return the harness's manager of tasks, which has all that the run asks.

    Raises:
        ConfigError: a name that is no task.
    """
    from lm_eval.tasks import TaskManager

    wanted = experiment.benchmarks
    folder = experiment.benchmark_folder
    if folder is not None:
        # Its own thousands of tasks take seconds to list, and are not needed where these are all.
        path = str(Path(folder).expanduser().resolve())
        manager = TaskManager(include_path=path, include_defaults=False)
        if not list_unknown(manager, wanted):
            return manager
        manager = TaskManager(include_path=path)
    else:
        manager = TaskManager()
    unknown = list_unknown(manager, wanted)
    if unknown:
        first = unknown[0].lower()
        near = [name for name in manager.all_tasks if first in name.lower()]
        listing = f"; there are {', '.join(sorted(near)[:MOST_NAMES])}" if near else ""
        allowed = f"{unknown[0]} is no task of lm-evaluation-harness{listing}"
        raise ConfigError("benchmarks", wanted, allowed)
    return manager


def list_unknown(manager: Any, wanted: list[str]) -> list[str]:
    """Return the names that are no task, group or tag."""
    known = set(manager.all_tasks)
    return [name for name in wanted if name not in known]


def fetch_tasks(manager: Any, wanted: list[str]) -> None:
    """Load each task once, which leaves its rows in the cache of `datasets`.

    Raises:
        ConfigError: rows that the hub does not give, or a package that a task needs and is not installed.
    """
    for name in wanted:
        dataset = find_dataset(manager, name)
        if not is_local(dataset):
            prepare_hub()
        try:
            manager.load([name])
        except Exception as error:  # of the harness, of the hub, or of a task's own code
            reason = explain_hub_error(error, dataset) or " ".join(str(error).split())
            allowed = f"the task cannot be loaded: {reason[:LONGEST_REASON]}"
            raise ConfigError("benchmarks", name, allowed) from error


def find_dataset(manager: Any, name: str) -> str:
    """Return the set whose rows a task asks, or the task's own name where that stands in its parts."""
    settings = manager.task_index[name].cfg or {}
    return str(settings.get("dataset_path") or name)


def is_local(dataset: str) -> bool:
    """Return whether `datasets` reads this set from files here: a folder, or by a reader such as `json`."""
    return dataset in FILE_READERS or Path(dataset).exists()


def summarize(answers: dict) -> Iterator[tuple[str, dict]]:
    """Yield each task with its metrics, their standard errors and directions, and how many examples it has.

    The harness names a metric `acc,none` or `exact_match,strict-match`, by the filter that the answer went through.
    """
    for task, result in answers["results"].items():
        metrics = {}
        errors = {}
        directions = {}
        stated = (answers.get("higher_is_better") or {}).get(task) or {}
        for key, value in result.items():
            name, _, filter_name = key.partition(",")
            if not filter_name or not isinstance(value, int | float):
                continue
            if name.endswith(STANDARD_ERROR):
                errors[name_metric(name.removesuffix(STANDARD_ERROR), filter_name)] = value
            else:
                metrics[name_metric(name, filter_name)] = value
                directions[name_metric(name, filter_name)] = stated.get(name)
        if metrics:
            examples = answers["n-samples"].get(task, {}).get("effective")
            first = next(iter(metrics))
            summary = {
                "metric": first,
                "metrics": metrics,
                "errors": errors,
                "higher_is_better": directions,
                "examples": examples,
            }
            yield name_key(task), summary


def name_metric(name: str, filter_name: str) -> str:
    """Return a metric's name as a record has it: the filter's name only where there is one."""
    full = name if filter_name == "none" else f"{name} {filter_name}"
    return name_key(full)


def name_key(name: str) -> str:
    """Return a name without dots and slashes, which part keys in a record."""
    return name.replace(".", "_").replace("/", "_")


def list_examples(when: str, answers: dict) -> Iterator[dict]:
    """Yield a line for each example that was asked: its number, the answer, and its scores by metric."""
    for task, samples in answers["samples"].items():
        by_example: dict[int, dict] = {}
        for sample in samples:
            line: dict = {"when": when, "task": name_key(task), "example": sample["doc_id"]}
            line = by_example.setdefault(sample["doc_id"], {**line, "scores": {}})
            line["answer"] = str(sample["filtered_resps"][:1])
            for name in sample["metrics"]:
                score = sample[name]
                is_number = isinstance(score, int | float) and math.isfinite(score)
                if is_number:
                    line["scores"][name_metric(name, sample["filter"])] = score
        yield from (by_example[number] for number in sorted(by_example))
