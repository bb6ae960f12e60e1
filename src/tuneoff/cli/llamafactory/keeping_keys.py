"""What is kept, evaluated, shown and uploaded of a run, in keys of LLaMA-Factory's that decide it together."""

import math

from tuneoff.cli.llamafactory.keys import OFF
from tuneoff.cli.llamafactory.kinds import OFF_WORDS
from tuneoff.cli.llamafactory.translation import Translation


def take_run(result: Translation) -> None:
    """What is kept of a run, evaluated and shown."""
    result.words["save_model"] = "true"
    strategy = str(result.get("save_strategy", "steps"))
    if strategy == "steps":
        result.ignore("save_strategy", "save_every says it")
        _take_saving(result)
    else:
        result.ignore("save_strategy", "what was trained is saved at the end")
        result.ignore("save_steps", f"save_strategy is {strategy}")
    _take_evaluation(result)
    _take_best_step(result)
    _take_tracker(result)
    _take_push(result)
    resume = result.get("resume_from_checkpoint", False)
    if str(resume).lower() == "true":
        result.take("resume_from_checkpoint", "resume=auto")
    elif resume in OFF or str(resume).lower() == "false":
        result.ignore("resume_from_checkpoint", "is off")
    else:
        result.refuse(
            "resume_from_checkpoint", "needs a checkpoint of ours; resume=auto goes on with one"
        )
    if result.is_on("predict_with_generate"):
        result.take("predict_with_generate", "exact_match=whole", note="in place of BLEU and ROUGE")
    else:
        result.ignore("predict_with_generate", "is off")


def _take_saving(result: Translation) -> None:
    """How often a checkpoint is saved."""
    if result.number("save_steps", 500) <= 0:
        result.ignore("save_steps", "is off")
        return
    steps = _count_steps(result, "save_steps")
    if steps is not None:
        result.take("save_steps", f"save_every={steps}")


def _count_steps(result: Translation, key: str) -> int | None:
    """Return how many steps a key says, 500 where it is left out; what is no number of steps is refused, and None.

    Below 1 it is a share of all steps there.
    """
    steps = result.number(key, 500, above=0)
    if steps >= 1:
        return result.whole(key, 500)
    total = result.whole("max_steps", -1)
    if total <= 0:
        result.refuse(key, "is a share of all steps there, and needs max_steps, which counts them")
        return None
    return math.ceil(steps * total)


def _take_evaluation(result: Translation) -> None:
    """How often the loss on validation rows is measured."""
    strategy = str(result.get("eval_strategy", result.get("evaluation_strategy", "no"))).lower()
    if strategy == "steps":
        # Without steps of its own, an evaluation comes where the loss is logged.
        key = "eval_steps" if result.get("eval_steps") else "logging_steps"
        note = "" if key == "eval_steps" else "logging_steps says it there"
        steps = _count_steps(result, key)
        if steps is not None:
            result.take("eval_steps", f"eval_every={steps}", note=note)
    else:
        result.ignore("eval_steps", "eval_strategy is not steps")
    reason = "a run is evaluated at its start and its end"
    if strategy == "epoch":
        result.warn(
            f"eval_strategy: epoch evaluates after each pass there; {reason} here, and eval_every= takes steps"
        )
    elif strategy == "steps":
        reason = "eval_every says it, beside the evaluations at start and end"
    for key in ("eval_strategy", "evaluation_strategy"):
        if key in result.values and strategy not in ("steps", "epoch", *OFF_WORDS):
            result.refuse(key, "there are no, steps and epoch")
        result.ignore(key, reason)


def _take_best_step(result: Translation) -> None:
    """Which step is kept, and whether a run stops before its budget ends."""
    is_evaluated = "eval_every" in result.words
    metric = str(result.get("metric_for_best_model", "loss"))
    keeps_best = result.is_on("load_best_model_at_end")
    patience = result.get("early_stopping_steps")
    asked = [("load_best_model_at_end", keeps_best), ("early_stopping_steps", bool(patience))]
    for key, is_asked in asked:
        if not is_asked:
            result.ignore(key, "is off")
        elif not is_evaluated:
            result.refuse(key, "needs eval_strategy: steps, which says when a step is judged")
        elif metric not in ("loss", "eval_loss"):
            result.refuse(key, f"judges by {metric}; the validation loss is what judges here")
        elif key == "early_stopping_steps":
            result.take(key, f"patience={result.whole(key, 1, lowest=1)}")
        else:
            result.take(key, "save_best=validation", "which=best")
    for key in ("metric_for_best_model", "greater_is_better"):
        result.ignore(key, "the validation loss judges")


def _take_push(result: Translation) -> None:
    """Where what was trained is uploaded to."""
    name = result.get("hub_model_id")
    if not result.is_on("push_to_hub"):
        result.ignore("push_to_hub", "is off")
    elif name is None:
        result.refuse("push_to_hub", "needs hub_model_id, as owner/name")
    else:
        result.take("push_to_hub", f"push={name}")


def _take_tracker(result: Translation) -> None:
    """The tracker; those that are not here are left out, since the record has every figure."""
    written = result.get("report_to", "none")
    names = written if isinstance(written, list) else [written]
    for name in names:
        if name in ("wandb", "all"):
            result.take("report_to", "tracker=wandb", "wandb_mode=online")
            return
        if name in ("tensorboard", "trackio"):
            result.take("report_to", f"tracker={name}")
            return
    note = "" if names == ["none"] else "the record has every figure"
    result.take("report_to", "tracker=none", note=note)
