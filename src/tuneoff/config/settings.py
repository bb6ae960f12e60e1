"""Settings: what every method shares, in the groups that `--help` shows, each with its range and what it is for.

The sentence below a setting is its help; `config/descriptions.py` reads it.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from tuneoff.config.benchmarks import BenchmarkSettings
from tuneoff.config.choices import (
    Dtype,
    MixedPrecision,
    Optimizer,
    Scheduler,
    Task,
    Tracker,
    WandbMode,
)
from tuneoff.config.data_sets import Data, Forgetting
from tuneoff.config.extractors import EXTRACTORS, is_extractor
from tuneoff.config.keeping import KeepingSettings
from tuneoff.config.model import Model
from tuneoff.config.options import (
    Role,
    above,
    at_least,
    fraction,
    names,
    one_of,
    option,
    setting,
)
from tuneoff.distributed.launch import get_world_size
from tuneoff.measure.cards import CPU, list_cards
from tuneoff.record import FAMILIES

# What a setting is for; said beside each, and nowhere else.
INCIDENTAL = Role.INCIDENTAL
BUDGET = Role.BUDGET | Role.JUDGING | Role.NOT_PREDICTED
JUDGING = Role.JUDGING
NOT_PREDICTED = Role.NOT_PREDICTED

MOST_JOBS = 16  # that share a device


def is_job_count(value: int) -> bool:
    """Whether so many jobs can share a device."""
    return 1 <= value <= MOST_JOBS


@dataclass
class RunSettings:
    """Run: what is done, and what is kept of it."""

    method: str = setting(MISSING, JUDGING)
    """The fine-tuning method: the name of a YAML in conf/method."""
    family: str | None = one_of(None, *FAMILIES, role=INCIDENTAL)
    """Which methods share a colour in charts; null takes what the method's class says."""
    task: Task = setting(Task.train, INCIDENTAL | NOT_PREDICTED)
    """Train, or only predict the memory that training would take."""
    seed: int = option(0, "must be in [0, 2^32)", lambda value: 0 <= value < 2**32, JUDGING)
    """Fixes new weights, the order of the data, dropout, and random blocks."""
    # Each has batch_size rows a micro-step.
    num_processes: int = option("${world_size:}", "must be at least 1", lambda value: value >= 1)
    """How many processes share a step; left out, as many as a launcher started."""
    save_model: bool = setting(False, JUDGING)
    """Save the trained model, or its adapter, in the run's folder model/."""
    export_merged: bool = setting(False, JUDGING)
    """Also save a model without adapters, in model/merged; needs save_model=true."""
    push: str | None = setting(None, INCIDENTAL)
    """Upload the saved model, or its adapter, to the hub as owner/name once the run is finished."""
    hub_name: str | None = setting(None, INCIDENTAL)
    """The base model's owner/name on the hub, written into the saved adapter for its path; needs save_model=true."""
    save_every: int | None = at_least(None, 1, INCIDENTAL)
    """Steps between two checkpoints; null saves one only when the run is stopped."""
    keep_checkpoints: int = at_least(2, 1, INCIDENTAL)
    """How many of the newest checkpoints are kept."""
    resume: str = setting("never", INCIDENTAL)
    """auto goes on with an unfinished run of these settings, a folder with the run in it, never begins anew."""
    rerun: bool = setting(False, INCIDENTAL)
    """Replace a run that is in the folder already, finished or not; needs resume=never."""
    llamafactory: str | None = setting(None, INCIDENTAL)
    """A YAML of LLaMA-Factory that says what is not written; python -m tuneoff import FILE shows how it is read."""
    progress: bool = setting(True, INCIDENTAL)
    """Show progress bars in the terminal, ours and those of libraries."""


@dataclass
class TrainingSettings:
    """Training: learning rate, batches, and the optimizer."""

    lr: float = above(1e-4, 0, NOT_PREDICTED)
    """The highest learning rate; each method's YAML has its own default."""
    scheduler: Scheduler = setting(Scheduler.cosine)
    """How the rate falls from its highest; constant keeps it there, wsd until the last decay_ratio of the budget."""
    warmup_ratio: float = fraction(0.03)
    """The share of the budget in which the rate rises from 0."""
    warmup_steps: int | None = at_least(None, 0)
    """The same in optimizer steps, in place of warmup_ratio; 0 is none."""
    min_lr_ratio: float = fraction(0.0)
    """The share of lr to which it falls."""
    scheduler_cycles: int = at_least(1, 1)
    """How often scheduler=cosine_with_restarts falls."""
    scheduler_power: float = above(1.0, 0)
    """The power of scheduler=polynomial; 1 is linear."""
    decay_ratio: float = option(0.1, "must be in (0, 1]", lambda value: 0 < value <= 1)
    """The share of the budget in which scheduler=wsd falls, at its end."""
    weight_decay: float = at_least(0.0, 0)
    """Decoupled weight decay, on matrices alone."""
    max_grad_norm: float | None = above(None, 0, column="Gradient clip")
    """Scale the gradient down where its global norm is above this; null never does."""
    optimizer: Optimizer = setting(Optimizer.adamw)
    """PyTorch's fused AdamW, bitsandbytes' with 8-bit states, Adafactor, Muon, or one of pytorch-optimizer.

    SOAP takes no step in the first, in which it only measures.
    """
    batch_size: int = at_least(8, 1)
    """Rows of a micro-step, in each process."""
    gradient_accumulation_steps: int = at_least(1, 1)
    """Micro-steps whose gradients are added up for one optimizer step."""
    max_length: int = at_least("${data.default_max_length}", 2, JUDGING)
    """Tokens of a row; what is longer is cut, and counted. Left out, it is the data's own (data.default_max_length)."""
    shuffle: bool = setting(True)
    """Draw an order of the rows for each epoch; false takes them as the set has them, every epoch."""
    group_by_length: bool = setting(False)
    """Put rows of like length into one step, so that less is padding."""
    neftune_alpha: float = at_least(0.0, 0)
    """Noise on the embeddings of training rows, within alpha/sqrt(tokens x width) (NEFTune); 0 adds none."""
    packing: bool = setting(False)
    """Put whole examples side by side in rows of max_length tokens; batch_size then counts such rows."""


@dataclass
class BudgetSettings:
    """Budget: how long a run trains; one of these, or the data's own (data.default_epochs, data.default_steps)."""

    epochs: float | None = above(None, 0, BUDGET)
    """Passes over the training rows."""
    max_steps: int | None = at_least(None, 1, BUDGET)
    """Optimizer steps."""
    max_tokens: int | None = at_least(None, 1, BUDGET)
    """Tokens without padding, over all processes."""
    max_seconds: float | None = above(None, 0, BUDGET)
    """Seconds of training, without evaluation, saving and loading."""


@dataclass
class PrecisionSettings:
    """Precision and memory: how weights and activations are stored."""

    dtype: Dtype | None = setting(None)
    """The type of the weights; null is float32, or bfloat16 under pure_bf16."""
    trainable_dtype: Dtype | None = setting(None)
    """The type of what trains: float32 keeps it whole beside frozen weights in dtype=bfloat16.

    Under null, adapters are float32, and all else that trains has dtype.
    """
    mixed_precision: MixedPrecision = setting(MixedPrecision.auto)
    """The type of autocast; no computes in dtype, auto takes bf16 on a GPU that has it, unless tuneoff:tiny trains."""
    pure_bf16: bool = setting(False)
    """All in bfloat16 but what adapters add: the same as dtype=bfloat16 mixed_precision=no."""
    quantization: str | None = one_of(None, "4bit", "8bit", column="Quantisation")
    """Store frozen base weights by bitsandbytes: 4bit (NF4, double quantisation) or 8bit."""
    tf32: bool = setting(False, JUDGING | NOT_PREDICTED)
    """Multiply float32 matrices in TF32 on a GPU: much faster, and 10 bits of precision instead of 23."""
    deterministic: bool = setting(False, JUDGING | NOT_PREDICTED)
    """Use operations alone that give the same bits each time on a GPU; one that has no such form fails the run."""
    gradient_checkpointing: bool = setting(False)
    """Compute activations again in the backward pass: less memory, slower steps."""
    compile: bool = setting(False, JUDGING | NOT_PREDICTED)
    """Compile the decoder layers for train steps (torch.compile), once for each of four lengths of padded rows."""


@dataclass
class EvaluationSettings:
    """Evaluation: what is measured beside the training loss."""

    eval_every: int | None = at_least(None, 1, JUDGING)
    """Steps between two evaluations on validation rows; null evaluates at the start and the end."""
    eval_batch_size: int | None = at_least(None, 1, JUDGING)
    """Rows of an evaluation's batch; null takes batch_size."""
    test: bool = setting(False, JUDGING | NOT_PREDICTED)
    """Evaluate the test split once, at the end."""
    exact_match: str | None = option(
        None,
        f"must be {', '.join(EXTRACTORS)}, or a regular expression with one group, "
        "around the answer",
        is_extractor,
    )
    """Generate an answer to each row at the end, and compare what this finds in it with the right one."""
    exact_match_limit: int | None = at_least(None, 1)
    """Rows to generate answers for; null takes the whole split."""
    exact_match_batch_size: int | None = at_least(None, 1, JUDGING)
    """Rows answered at once, which take less memory than rows evaluated; null takes eval_batch_size, or batch_size."""
    max_new_tokens: int = at_least(256, 1)
    """Tokens of a generated answer at most."""
    measure_serving: bool = setting(False, JUDGING | NOT_PREDICTED)
    """Measure at the end what answering takes: prefill, decoding and memory, with the adapter and merged."""
    serving_prompt_tokens: int = at_least(128, 1, JUDGING | NOT_PREDICTED)
    """Tokens of the prompt that measure_serving asks with."""
    serving_new_tokens: int = at_least(64, 2, JUDGING | NOT_PREDICTED)
    """Tokens of each answer that measure_serving generates."""
    forgetting: Forgetting = field(default_factory=Forgetting)
    """A second data set whose loss is measured before and after training."""


@dataclass
class TrackingSettings:
    """Tracking: where progress is shown beside the record."""

    tracker: Tracker = setting(Tracker.wandb, INCIDENTAL)
    """Which tracker gets the figures; the record is written in any case."""
    wandb_mode: WandbMode = setting(WandbMode.offline, INCIDENTAL)
    """offline keeps W&B's files in the run's folder until `wandb sync`, online sends them at once."""
    wandb_project: str = setting("tuneoff", INCIDENTAL)
    """The tracker's project."""
    wandb_entity: str | None = setting(None, INCIDENTAL)
    """The user or team of the project in W&B; null is your own default."""
    tags: Any = names(role=INCIDENTAL)
    """Words that the tracker shows beside the run."""


@dataclass
class SweepSettings:
    """Sweep: how the runs of a sweep belong together."""

    tuned: str | None = setting(None, INCIDENTAL)
    """The folder of an earlier sweep, from which each method takes its best settings."""
    tuned_anyway: bool = setting(False, INCIDENTAL)
    """Take settings that were tuned under another budget, batch, length, precision or option; the record says so."""
    tuning_schedule: str = one_of("grid", "grid", "halving", role=INCIDENTAL)
    """grid trains every job to its end; halving gives all a short budget, and the better half of each method more."""
    stop_after: float | None = option(
        None, "must be in (0, 1)", lambda share: 0 < share < 1, INCIDENTAL
    )
    """The share of the budget after which a run evaluates, saves and pauses; resume=auto without it goes on."""
    dry_run: bool = setting(False, INCIDENTAL)
    """List a sweep's jobs with their settings and folders, and start none."""
    fail_fast: bool = setting(False, INCIDENTAL)
    """End the sweep with its first failed job; false goes on with the others."""


@dataclass
class LimitSettings:
    """Limits: what a job may take, and what a prediction is for."""

    gib: float | None = above(None, 0, INCIDENTAL)
    """GiB for which a prediction finds the largest batch_size that fits."""
    device: str | None = one_of(None, *list_cards(), CPU, role=INCIDENTAL)
    """The device for which a prediction says how long a run takes: a card by its published rates, or this CPU."""
    skip_if_over_gib: float | None = above(None, 0, INCIDENTAL)
    """Predict first, and do not start a run that would need more GiB."""
    job_memory_gib: float | None = above(None, 0, INCIDENTAL)
    """GiB of resident memory at which a sweep's job is stopped."""
    job_timeout_seconds: float | None = above(None, 0, INCIDENTAL)
    """Seconds after which a sweep's job is stopped."""
    job_stall_seconds: float | None = above(None, 0, INCIDENTAL)
    """Seconds without a line in metrics.jsonl after which a sweep's job is stopped."""
    grace_seconds: float = above(60.0, 0, INCIDENTAL)
    """Seconds that a job which is stopped has for its checkpoint, before it is killed."""
    jobs_per_device: int = option(1, f"must be from 1 to {MOST_JOBS}", is_job_count, INCIDENTAL)
    """Jobs of a sweep that share a GPU; others wait until one is free."""


@dataclass
class SourceSettings:
    """Model and data: what is trained, and on what."""

    model: Model = setting(Model, JUDGING)
    """The model: the name of a YAML in conf/model, and the keys in it."""
    data: Data = setting(Data, JUDGING)
    """The data set: the name of a YAML in conf/data, and the keys in it."""


# In the order of --help.
GROUPS = (
    RunSettings,
    SourceSettings,
    TrainingSettings,
    BudgetSettings,
    PrecisionSettings,
    EvaluationSettings,
    BenchmarkSettings,
    KeepingSettings,
    TrackingSettings,
    SweepSettings,
    LimitSettings,
)


# Read where a config is checked or an experiment made: what launches ranks says how many only then.
OmegaConf.register_new_resolver("world_size", get_world_size, replace=True)
