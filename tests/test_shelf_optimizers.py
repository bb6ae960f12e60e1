"""The matrix of the choices beside README's eleven that are no tuner of PEFT's: found by their YAMLs.

Each is trained on the small model for 24 steps, once for all the tests that read it.
"""

import copy
from functools import cache
from random import Random

import pytest
import torch
from helpers import (
    FURTHER,
    Killed,
    apart,
    bound,
    end_whole_and_killed,
    in_this_part,
    kill_inside,
    prepare_run,
    quick_of,
    trajectory,
)
from peft import PeftModel
from test_predict import compare
from test_reach import count_changed
from test_reference import (
    RATE,
    STEPS,
    TARGETS,
    adamw,
    base,
    descend,
    galore_groups,
    loss_of,
    rate,
    worst,
)
from test_shelf import difference, logits_of
from transformers import AutoModelForCausalLM
from two_ranks import compare_ranks

from tuneoff.config import ConfigError, derive_seed
from tuneoff.data import collate
from tuneoff.methods import _host_reads, _lora_from_data
from tuneoff.training.step import summed_loss

# Each of these families over methods takes minutes.
pytestmark = pytest.mark.rotating
# What suits a model of three layers, 64 wide, and lets 24 steps do all that a method does in turn.
SMALL = {
    "apollo": ["apollo_rank=8", "apollo_update_interval=7"],
    "apollo_mini": ["apollo_update_interval=7"],
    "fira": ["fira_rank=8", "fira_update_interval=7"],
    "lisa": ["lisa_layers=1", "lisa_switch_interval=5"],
}
CASES = [
    pytest.param(name, marks=() if in_this_part(name) else pytest.mark.slow) for name in FURTHER
]

ADAPTERS = ("corda", "eva", "lora_ga", "lorafa")


@pytest.fixture(scope="module")
def further_settings(small_settings):
    """`further_settings("apollo", …)`: (experiment, method, config) of a choice on the small model."""

    def make(method, *words):
        own = SMALL.get(method, [])
        shared = ["batch_size=2", "max_length=48", f"max_steps={STEPS}", f"lr={RATE}"]
        return bound(*small_settings([f"method={method}", *own, *shared, *words]))

    return make


@pytest.fixture(scope="module")
def trained(further_settings, tmp_path_factory):
    """`trained("apollo")`: (run after its last step, weights before its first, folder), made once for all tests."""

    @cache
    def train(method):
        folder = tmp_path_factory.mktemp(method)
        training = arrange(further_settings(method, "save_every=10"), folder)
        model = training.parts.model
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        training.fit()
        training.parts.recorder.close()
        return training, before, folder

    return train


def arrange(settings, folder):
    """A run that is set up."""
    experiment, method, config = settings
    return prepare_run(experiment, method, folder, config)


# ---------------------------------------------------------------- references: the packages used directly
def reference_apollo(training, model):
    from apollo_torch import APOLLOAdamW

    own = training.parts.optimizer.param_groups[0]
    groups = galore_groups(model, "std")
    groups[0] |= {key: own[key] for key in ("rank", "scale", "proj", "scale_type")}
    for group in groups:
        group["weight_decay"] = 0.0
    descend(training, model, APOLLOAdamW(groups, lr=RATE, eps=1e-8))


def reference_fira(training, model):
    from pytorch_optimizer import Fira

    groups = galore_groups(model, "std")
    groups[0]["projection_type"] = groups[0].pop("proj_type")
    for group in groups:
        group["weight_decay"] = 0.0
    descend(training, model, Fira(groups, lr=RATE, eps=1e-8))


def step_inside(training, model, step_on):
    """A loop over optimizers that step while `step_on(loss, rate)` goes back through the model."""
    for step in range(STEPS):
        batch = collate(training.parts.order.step_rows(step), 0)
        step_on(loss_of(model, batch), RATE * rate(step))


def reference_lomo(training, model):
    from pytorch_optimizer import LOMO

    step_inside(training, model, LOMO(model, lr=RATE).fused_backward)


def reference_adalomo(training, model):
    from pytorch_optimizer import AdaLOMO

    step_inside(training, model, AdaLOMO(model, lr=RATE, loss_scale=0.0).fused_backward)


def reference_lisa(training, model):
    """AdamW on what lies outside the layers, and a fresh one on each layer that is drawn."""
    layers = list(model.model.layers)
    inside = {weight for layer in layers for weight in layer.parameters()}
    outside = adamw([weight for weight in model.parameters() if weight not in inside])
    random = Random(derive_seed(training.parts.experiment.seed, "blocks"))
    drawn = None
    for step in range(STEPS):
        if step % 5 == 0:
            last = drawn
            (drawn,) = random.sample(range(len(layers)), 1)
            if drawn != last:
                inner = adamw(layers[drawn].parameters())
        loss_of(model, collate(training.parts.order.step_rows(step), 0)).backward()
        for optimizer in (outside, inner):
            for group in optimizer.param_groups:
                group |= {"lr": RATE * rate(step), "weight_decay": 0.0}
            optimizer.step()
        model.zero_grad()


def reference_lorafa(training, model):
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_lorafa_optimizer

    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS)
    model = get_peft_model(model, config)
    optimizer = create_lorafa_optimizer(model, r=8, lora_alpha=16, lr=RATE)
    optimizer.param_groups[0]["eps"] = 1e-8
    descend(training, model, optimizer)
    return model


def wrap_from_data(training, model, kind, **settings):
    """PEFT's documented calls for an adapter that begins from the rows of a run's first eight steps."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.corda import preprocess_corda
    from peft.tuners.lora.eva import initialize_lora_eva_weights
    from peft.tuners.lora.loraga import preprocess_loraga

    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights=kind, **settings
    )
    steps = [training.parts.order.step_rows(step) for step in range(8)]
    batches = [collate(rows, 0) for rows in steps]
    if kind == "lora_ga":

        def sum_gradients():
            for rows in steps:
                labels = sum(row.labels for row in rows)
                for row in rows:
                    loss = summed_loss(model, collate([row], 0)) * len(rows) / labels
                    loss.backward()

        preprocess_loraga(model, config, sum_gradients)
    elif kind == "corda":
        rows = [collate([row], 0) for step in steps for row in step]
        preprocess_corda(model, config, lambda: [model(input_ids=row.input_ids) for row in rows])
        model.train()
    wrapped = get_peft_model(model, config)
    if kind == "eva":
        inputs = []
        for batch in batches:
            labels = torch.full_like(batch.input_ids, -100)
            labels.view(-1)[batch.keep + 1] = batch.labels
            inputs.append({"input_ids": batch.input_ids, "labels": labels})
        initialize_lora_eva_weights(wrapped, inputs, show_progress_bar=False)
    return wrapped


def reference_from_data(training, model):
    from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig

    kind = training.parts.experiment.method
    settings = {
        "eva": {"eva_config": EvaConfig()},
        "lora_ga": {"lora_ga_config": LoraGAConfig()},
        "corda": {"corda_config": CordaConfig()},
    }
    model = wrap_from_data(training, model, kind, **settings[kind])
    optimizer = adamw(model.parameters())
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    return descend(training, model, optimizer)


REFERENCES = {
    "apollo": reference_apollo,
    "apollo_mini": reference_apollo,
    "fira": reference_fira,
    "lomo": reference_lomo,
    "adalomo": reference_adalomo,
    "lisa": reference_lisa,
    "lorafa": reference_lorafa,
    "eva": reference_from_data,
    "lora_ga": reference_from_data,
    "corda": reference_from_data,
}


# ---------------------------------------------------------------- the matrix
@pytest.mark.parametrize("method", CASES)
def test_it_equals_its_package_used_directly(trained, measured, method):
    training, _, _ = trained(method)
    reference = base(training)
    wrapped = REFERENCES[method](training, reference)
    largest, name = worst(training.parts.model, wrapped or reference)
    measured(method, "reference", largest)
    assert largest <= 1e-6, name


@pytest.mark.parametrize("method", CASES)
def test_it_is_the_same_once_it_was_killed_and_resumed(
    trained, further_settings, tmp_path, measured, method
):
    """Twice the same, and resumed to the last bit: killed in step 14, gone on from the checkpoint after step 10."""
    whole, _, folder = trained(method)
    for resume in ("never", "auto"):
        training = arrange(further_settings(method, "save_every=10", f"resume={resume}"), tmp_path)
        if resume == "never":
            kill_inside(training, lambda training=training: training.trainer.step == 13)
            with pytest.raises(Killed):
                training.fit()
        else:
            assert training.trainer.step == 10
            training.fit()
        training.parts.recorder.close()
    weights = [dict(run.parts.model.named_parameters()) for run in (whole, training)]
    largest = max(apart(trajectory(folder), trajectory(tmp_path)), apart(*weights))
    for column in ("twice", "resumed"):
        measured(method, column, largest)
    assert largest == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["apollo", "fira", "adalomo", "lisa"])
def test_states_of_another_type_than_the_weights_are_resumed_as_they_were(
    further_settings, tmp_path, method
):
    """Weights of bfloat16: PyTorch would load an optimizer's float32 states rounded to it."""
    words = ["pure_bf16=true", "max_steps=8", "save_every=2"]

    def prepare(resume, folder):
        return arrange(further_settings(method, *words, resume), folder)

    ends = end_whole_and_killed(prepare, tmp_path, killed_in=5)
    assert [apart(one, other) for one, other in zip(*ends, strict=True)] == [0, 0]


@pytest.mark.parametrize("method", CASES)
def test_the_record_counts_the_weights_that_have_changed(trained, method):
    training, before, _ = trained(method)
    _, whole = count_changed(before, training.parts.model)
    counts = training.measured()["parameters"]
    assert counts["ever_trained"] == training.parts.parameters["ever_trained"] == whole
    curve = [line["loss"] for line in training.parts.recorder.curve if "loss" in line]
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("method", CASES)
def test_its_export_is_the_trained_model(trained, tmp_path, measured, method):
    training, _, _ = trained(method)
    training.parts.method.export(training.parts.model, tmp_path, False)
    if training.parts.method.keeps_base:
        residual = tmp_path / "base"
        origin = residual if residual.exists() else training.parts.experiment.model.path
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(origin), tmp_path)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    largest = apart(*[dict(one.named_parameters()) for one in (loaded, training.parts.model)])
    measured(method, "exported", largest)
    assert largest == 0


@pytest.mark.parametrize("method", [case for case in CASES if case.values[0] in ADAPTERS])
def test_what_is_merged_gives_its_logits(trained, further_settings, tmp_path, measured, method):
    training = trained(method)[0]
    assert further_settings(method, "save_model=true", "export_merged=true")
    model = copy.deepcopy(training.parts.model)  # which merging takes apart
    facts = training.parts.method.export_merged(model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    largest = difference(logits_of(merged), logits_of(training.parts.model))
    measured(method, "merged", largest)
    assert "warnings" not in facts and largest <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("method", FURTHER)
def test_two_processes_give_the_losses_of_one(
    further_settings, two_ranks, tmp_path, measured, method
):
    """The same two processes train all of them, in turn."""
    compare_ranks(further_settings, two_ranks, tmp_path, measured, method)


@pytest.mark.parametrize("method", CASES)
def test_a_prediction_equals_a_real_step(further_settings, measured, method):
    experiment, options, _ = further_settings(method)
    if options.initial_steps:
        with pytest.raises(ConfigError, match="cannot be predicted") as refused:
            further_settings(method, "task=predict")
        measured(method, "predicted", refused.value.allowed)
        return
    compare(experiment, options)
    measured(method, "predicted", 0.0)


@pytest.mark.parametrize("method", CASES)
def test_its_first_loss_is_the_bases(trained, measured, method):
    """Of the first step; where it begins from data, what that took is in the record."""
    training, _, _ = trained(method)
    parts = training.parts
    first = next(line["loss"] for line in parts.recorder.curve if "loss" in line)
    expected = loss_of(base(training), collate(parts.order.step_rows(0), 0))
    measured(method, "start", abs(first - expected.item()))
    assert first == pytest.approx(expected.item(), abs=2e-5)
    measured = training.measured()
    begins = bool(parts.method.initial_steps)
    assert ("initialise" in measured["memory"]["peak_gib"]) == begins
    assert ("initialise" in measured["facts"]) == begins
    if begins:
        assert measured["facts"]["initialise"]["tokens"] > 0


# ---------------------------------------------------------------- each one's own ways
@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["method=lomo", "gradient_accumulation_steps=2"], "must be 1 where method=lomo"),
        (["method=adalomo", "max_grad_norm=1"], "lomo_max_weight_grad_norm clips each weight"),
        (["method=lomo", "optimizer=muon"], "optimizer=muon: must be one of adamw"),
        (["method=lorafa", "optimizer=lion"], "optimizer=lion: must be adamw where use_lorafa"),
        (["method=lorafa", "use_dora=true"], "use_dora=true: must be false"),
        (["method=lorafa", "loraplus_lr_ratio=4"], "loraplus_lr_ratio=4.0: must be null"),
        (["method=lisa", "num_processes=2"], "num_processes=2: must be 1 where method=lisa"),
        (["method=eva", "adapter_path=x"], "lora_init=eva: must be null where adapter_path"),
        (["method=corda", "skip_if_over_gib=9"], "lora_init=corda: cannot be predicted"),
        (["method=lora", "lora_init_steps=4"], "lora_init_steps=4: needs lora_init=eva"),
        (["method=lisa", "lisa_layers=0"], "lisa_layers=0: must be at least 1"),
        (["method=apollo", "apollo_rank=0"], "apollo_rank=0: must be at least 1"),
        (["method=fira", "fira_scale=0"], "fira_scale=0.0: must be above 0"),
    ],
)
def test_what_they_cannot_do_is_refused(settings, words, match):
    with pytest.raises(ConfigError, match=match):
        settings(*words)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["method=lisa", "lisa_layers=4"], "lisa_layers=4: this model has 3 decoder layers"),
        (["method=apollo", "apollo_rank=65"], "apollo_rank=65: .* is 64x64, so at most 64"),
        (["method=lora_ga", "lora_rank=33"], "lora_rank=33: .* is 64x64, so at most 32"),
        (
            ["method=eva", "lora_rank=32", "lora_init_steps=1", "batch_size=1"],
            "lora_init=eva: looks for 64 directions, 2 times the rank, and no step has more than ",
        ),
        (["method=fira", "fira_target=[nothing]"], "fira_target=nothing: no such linear layer"),
    ],
)
def test_what_the_model_cannot_give_is_refused(new_run, words, match):
    with pytest.raises(ConfigError, match=match):
        new_run(*words)


def test_directions_that_do_not_settle_are_refused(new_run, monkeypatch):
    """After one pass they never have."""
    monkeypatch.setattr(_lora_from_data, "MOST_PASSES", 1)
    with pytest.raises(ConfigError, match="EVA's directions have not settled after 1 passes"):
        new_run("method=eva", "lora_init_steps=1", "batch_size=8")


def test_the_larger_is_found_without_a_tensors_value():
    tensor = torch.tensor(0.5)
    assert _host_reads.take_larger(tensor, 1.01) / 1.01 == 1
    assert _host_reads.take_larger(1e-3, tensor) == tensor
    assert _host_reads.take_larger(1, 2) == 2


def test_lorafa_steps_what_trains_beside_the_adapters(new_run):
    """PEFT's optimizer takes it for AdamW; the norm is no pair of A and B."""
    training = new_run("method=lorafa", "additional_target=[norm]", "max_steps=2")
    weights = dict(training.parts.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    training.fit()
    training.parts.recorder.close()
    changed = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert any(name.endswith("norm.modules_to_save.default.weight") for name in changed)
    assert changed == {name for name, weight in weights.items() if weight.requires_grad}
    assert not any("lora_A" in name for name in changed)


def test_random_projections_draw_nothing_from_the_global_generator(new_run):
    """Ranks have other generators than the first, and would project otherwise; dropout would move."""
    training = new_run("method=apollo", "apollo_rank=8", "apollo_update_interval=1")
    before = torch.get_rng_state()
    for parameter in training.parts.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.parts.optimizer.step()
    assert torch.equal(before, torch.get_rng_state())
    training.parts.recorder.close()


def test_layers_that_no_draw_has_reached_are_told(new_run, caplog):
    training = new_run("method=lisa", "lisa_layers=1", "lisa_switch_interval=2", "max_steps=2")
    assert "in a budget of 2 steps 2 of the layers are never drawn" in caplog.text
    training.fit()
    facts = training.measured()["facts"]
    layers = {name.split(".")[2] for name in facts["never_trained"]}
    assert len(layers) == 2 and 0 < facts["covered_share"] < 1
    training.parts.recorder.close()


def test_every_further_choice_has_a_reference():
    assert set(REFERENCES) == set(FURTHER)


@pytest.mark.parametrize("method", quick_of(["corda", "eva", "lora_ga"], "corda"))
def test_what_adapters_begin_from_is_not_rounded_by_autocast(further_settings, tmp_path, method):
    whole = arrange(further_settings(method), tmp_path / "whole")
    rounded = arrange(further_settings(method, "mixed_precision=bf16"), tmp_path / "rounded")
    others = dict(rounded.parts.model.named_parameters())
    for name, weight in whole.parts.model.named_parameters():
        assert torch.equal(weight, others[name]), name
