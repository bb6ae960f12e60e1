"""The matrix of every choice of `method` beside README's eleven: found by its YAML, and held by the same contract.

One training a choice, of 20 steps, is shared by the tests that read it.
"""

import json
import pickle
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import (
    FOUND,
    METHODS,
    ROOT,
    SHELF,
    TINY,
    Killed,
    apart,
    bound,
    in_this_part,
    kill_inside,
    prepare_run,
    trajectory,
)
from test_predict import compare
from test_reach import count_changed
from test_reference import loss_of, worst
from tools.peft_options import FILE, describe_all, format_options
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from two_ranks import compare_ranks

from tuneoff.config import ConfigError, Task, derive_seed
from tuneoff.data import collate
from tuneoff.methods import _left_out
from tuneoff.methods._peft_options import LEFT_OUT, TUNERS, make_options
from tuneoff.models.loading import load_model
from tuneoff.predict.predictor import refuse_values

# Each of these families over methods takes minutes.
pytestmark = pytest.mark.rotating
STEPS = 20
IDS = torch.arange(1, 33).reshape(2, 16)
CASES = [pytest.param(name, marks=() if in_this_part(name) else pytest.mark.slow) for name in SHELF]


@pytest.fixture(scope="module")
def shelf_model(tmp_path_factory) -> Path:
    """Two layers as wide as the embedded model's, which the tuners' blocks and groups divide, with random weights."""
    folder = tmp_path_factory.mktemp("shelf")
    shape = json.loads((TINY / "config.json").read_text())
    shape |= {"num_hidden_layers": 2, "intermediate_size": 256, "dtype": "float32"}
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shelf_settings(shelf_model, small_settings):
    """`shelf_settings("vera", …)`: (experiment, method, config) of a choice at its own options."""

    def make(method, *words):
        quick = ["batch_size=2", "max_length=48", f"max_steps={STEPS}", f"model.path={shelf_model}"]
        return bound(*small_settings([f"method={method}", *quick, *words]))

    return make


@pytest.fixture(scope="module")
def trained(shelf_settings, tmp_path_factory):
    """`trained("vera")`: a run after its last step, exported, and its logits; made once for all tests."""

    @cache
    def train(method):
        folder = tmp_path_factory.mktemp(method)
        words = ["save_model=true", "save_every=8", "weight_decay=0.1"]
        training = prepare_run(*arrange(shelf_settings(method, *words), folder))
        weights = training.parts.model.named_parameters()
        before = {name: weight.detach().clone() for name, weight in weights}
        training.fit()
        training.changed = count_changed(before, training.parts.model)
        logits = logits_of(training.parts.model)
        training.conclude()
        training.parts.recorder.finish("finished", training.measured())
        training.parts.recorder.close()
        return training, logits, folder

    return train


def arrange(settings, folder):
    """The arguments of `prepare_run`."""
    experiment, method, config = settings
    return experiment, method, folder, config


@torch.no_grad()
def logits_of(model):
    """Of two rows, (2, 16, vocabulary), without what virtual tokens before them give."""
    return model.eval()(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]


def base_logits(training):
    """Those of the model that the run started from."""
    return logits_of(load_model(training.parts.experiment))


def difference(one, other):
    return float((one - other).abs().max())


# ---------------------------------------------------------------- the matrix
@pytest.mark.parametrize("method", CASES)
def test_it_trains_from_the_base_models_loss(trained, shelf_settings, tmp_path, measured, method):
    """Exceptions are named, and are some: who starts at the base model must not be among them."""
    training, _, folder = trained(method)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["loss"]["final"] != result["loss"]["initial"]
    counts = result["parameters"]
    assert 0 < counts["trainable"] <= counts["ever_trained"] <= counts["total"]
    saved = sum(file.stat().st_size for file in (folder / "model").glob("adapter_model.*"))
    assert result["facts"]["saved_bytes"] == saved
    fresh = prepare_run(*arrange(shelf_settings(method), tmp_path))
    start = difference(logits_of(fresh.parts.model), base_logits(fresh))
    fresh.parts.recorder.close()
    measured(method, "start", start)
    assert (start <= 2e-5) == training.parts.method.starts_at_base, start


@pytest.mark.parametrize("method", CASES)
def test_what_is_said_to_train_has_changed(trained, method):
    """All weights of which the record says that they trained, and no others."""
    training, _, _ = trained(method)
    counts = training.measured()["parameters"]
    entries, whole = training.changed
    assert entries <= counts["ever_trained"] == whole


@pytest.mark.parametrize("method", CASES)
def test_a_second_run_that_was_killed_and_resumed_is_the_same(
    trained, shelf_settings, tmp_path, measured, method
):
    """Twice the same, and resumed to the last bit: killed in step 12, gone on from the checkpoint after step 8."""
    whole, _, folder = trained(method)
    for resume in ("never", "auto"):
        words = ["save_every=8", "weight_decay=0.1", f"resume={resume}"]
        training = prepare_run(*arrange(shelf_settings(method, *words), tmp_path))
        if resume == "never":
            kill_inside(training, lambda training=training: training.trainer.step == 11)
            with pytest.raises(Killed):
                training.fit()
        else:
            assert training.trainer.step == 8
            training.fit()
        training.parts.recorder.close()
    largest = max(
        apart(trajectory(folder), trajectory(tmp_path)),
        apart(
            dict(whole.parts.model.named_parameters()),
            dict(training.parts.model.named_parameters()),
        ),
    )
    for column in ("twice", "resumed"):
        measured(method, column, largest)
    assert largest == 0


@pytest.mark.parametrize("method", CASES)
def test_it_is_read_back_from_its_export(trained, shelf_model, measured, method):
    from peft import PeftModel

    training, logits, folder = trained(method)
    torch.manual_seed(99)
    base = AutoModelForCausalLM.from_pretrained(shelf_model)
    loaded = PeftModel.from_pretrained(base, folder / "model")
    largest = difference(logits_of(loaded), logits)
    measured(method, "exported", largest)
    assert largest <= 1e-5


@pytest.mark.parametrize("method", CASES)
def test_it_merges_or_says_that_it_does_not(trained, shelf_settings, tmp_path, measured, method):
    training, logits, folder = trained(method)
    try:
        shelf_settings(method, "save_model=true", "export_merged=true")
    except ConfigError as refused:
        assert "cannot become a part of the weights" in str(refused)
        measured(method, "merged", refused.allowed)
        with pytest.raises((AttributeError, NotImplementedError, ValueError)):
            training.parts.method.export_merged(training.parts.model, tmp_path)
        return
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(training.parts.experiment.model.path)
    model = PeftModel.from_pretrained(base, folder / "model")
    facts = training.parts.method.export_merged(model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    largest = difference(logits_of(merged), logits)
    measured(method, "merged", largest)
    assert "warnings" not in facts and largest <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("method", SHELF)
def test_two_processes_give_the_losses_of_one(
    shelf_settings, two_ranks, tmp_path, measured, method
):
    """The same two processes train all of them, in turn."""
    compare_ranks(shelf_settings, two_ranks, tmp_path, measured, method)


@pytest.mark.parametrize("method", CASES)
def test_a_prediction_equals_a_real_step(shelf_settings, measured, method):
    """To the byte, and its peak to 3 %; what reads the values of weights is refused, and says so."""
    experiment, options, _ = shelf_settings(method)
    try:
        experiment.task = Task.predict
        options.check(experiment)
        experiment.task = Task.train
        with refuse_values(experiment):
            compare(experiment, options)
        measured(method, "predicted", 0.0)
    except ConfigError as refused:
        assert "cannot be predicted" in str(refused)
        measured(method, "predicted", refused.allowed)


# ---------------------------------------------------------------- equal to a reference
@pytest.mark.parametrize("method", CASES)
def test_it_equals_peft_used_directly(trained, measured, method):
    """The same 20 steps by PEFT's documented calls, PyTorch's AdamW and a plain loop."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    training, _, _ = trained(method)
    experiment = training.parts.experiment
    torch.manual_seed(derive_seed(experiment.seed, "modules"))
    base = load_model(experiment)
    config = dict(training.parts.model.peft_config["default"].to_dict())
    kinds = PEFT_TYPE_TO_CONFIG_MAPPING
    kind = next(cls for name, cls in kinds.items() if name.value == config["peft_type"])
    options = {name: config[name] for name in TUNERS[config["peft_type"].lower()]}
    for name in ("target_modules", "total_step"):
        if config.get(name) is not None:
            options[name] = config[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, kind(task_type="CAUSAL_LM", **options)).train()
    optimizer = make_adamw(model, experiment.lr)
    torch.manual_seed(derive_seed(experiment.seed, "dropout"))  # some draw as they train
    rates = [line["lr"] for line in training.parts.recorder.curve if "lr" in line]
    for step in range(STEPS):
        batch = collate(training.parts.order.step_rows(step), 0)
        loss_of_tuner(model, batch).backward()
        for group, rate in zip(optimizer.param_groups, rates[step], strict=True):
            group["lr"] = rate
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    largest, name = worst(training.parts.model, model)
    measured(method, "reference", largest)
    assert largest <= 1e-6, name


def loss_of_tuner(model, batch):
    """By the operations of `loss_of`, but where PEFT's own forward adds inputs or a part of the loss."""
    own_forward = model.active_peft_config.is_prompt_learning or model.peft_type == "ADALORA"
    if own_forward:
        labels = spread_labels(batch)
        return model(input_ids=batch.input_ids, labels=labels, use_cache=False).loss
    return loss_of(model.get_base_model(), batch)


def spread_labels(batch):
    """The labels where transformers expects them: -100 but at the tokens to predict."""
    labels = torch.full_like(batch.input_ids, -100)
    labels.view(-1)[batch.keep + 1] = batch.labels
    return labels


def make_adamw(model, rate):
    """PyTorch's AdamW; matrices decay, vectors do not, nor do factors around 1 in the shape of a matrix."""
    decayed = []
    others = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_vector = parameter.ndim < 2 or "ia3_l" in name or "boft_s" in name
            (others if is_vector else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, fused=True)


# ---------------------------------------------------------------- found, and listed
def test_the_options_are_those_of_the_installed_peft():
    """`python tests/tools/peft_options.py` writes the file anew."""
    assert FILE.read_text() == format_options(describe_all())


def test_every_type_of_peft_is_a_choice_or_left_out_with_a_reason():
    from peft import PeftType

    types = {kind.value.lower() for kind in PeftType}
    assert types == set(TUNERS) | set(LEFT_OUT)
    assert set(TUNERS) <= set(FOUND)
    assert all(LEFT_OUT.values())


def test_what_is_left_out_is_no_choice_and_stands_in_the_table_with_its_reason():
    text = (ROOT / "conf" / "method" / "METHODS.md").read_text()
    for reasons in (LEFT_OUT, _left_out.LEFT_OUT):
        for name, reason in reasons.items():
            assert f"- `{name}` {reason}\n" in text
    assert set(_left_out.LEFT_OUT).isdisjoint(FOUND)


def test_the_eleven_of_the_readme_are_found():
    assert len(METHODS) == 11 and set(METHODS) < set(FOUND)


def test_a_process_that_never_made_a_tuners_options_unpickles_them():
    """As a sweep's job does, whose settings come to it pickled."""
    program = (
        "import sys, pickle; options = pickle.loads(sys.stdin.buffer.read()); print(options.type)"
    )
    pickled = pickle.dumps(make_options("oft")())
    done = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True)
    assert (done.returncode, done.stdout.strip()) == (0, b"oft"), done.stderr


def test_a_methods_options_are_unpickled_in_a_process_that_composed_nothing(
    shelf_settings, tmp_path
):
    _, method, _ = shelf_settings("vera")
    file = tmp_path / "method.pickle"
    file.write_bytes(pickle.dumps(method))
    program = f"import pickle; print(pickle.load(open({str(file)!r}, 'rb')).peft.type)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "vera\n", done.stderr
