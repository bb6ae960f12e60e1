"""What is kept, evaluated, shown and uploaded of a run, in keys of LLaMA-Factory's that decide it together."""

from tuneoff.cli.llamafactory.keys import OFF
from tuneoff.cli.llamafactory.translation import Translation


def take_run(result: Translation) -> None:
    """What is kept of a run, evaluated and shown."""
    result.words["save_model"] = "true"
    strategy = str(result.get("save_strategy", "steps"))
    if strategy == "steps":
        result.ignore("save_strategy", "save_every says it")
        result.take("save_steps", f"save_every={int(result.number('save_steps', 500))}")
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


def _take_evaluation(result: Translation) -> None:
    """How often the loss on validation rows is measured."""
    strategy = str(result.get("eval_strategy", result.get("evaluation_strategy", "no")))
    steps = result.get("eval_steps")
    if strategy == "steps" and not steps:
        steps = result.number("logging_steps", 500)
        result.take("eval_steps", f"eval_every={int(steps)}", note="logging_steps says it there")
    elif strategy == "steps":
        result.take("eval_steps", f"eval_every={int(result.number('eval_steps', 500))}")
    else:
        result.ignore("eval_steps", "eval_strategy is not steps")
    for key in ("eval_strategy", "evaluation_strategy"):
        result.ignore(key, "eval_every says it, beside the evaluations at start and end")


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
            result.take(key, f"patience={int(result.number(key, 0))}")
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
