"""Every optimizer that `optimizer` names: equal to its package used directly, resumed to the last bit, predicted."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import apart, end_whole_and_killed, in_this_part
from test_predict import compare
from transformers import Qwen3Config, Qwen3ForCausalLM

from tuneoff.config import PACKAGED, ConfigError, Optimizer
from tuneoff.data import collate
from tuneoff.models.adam_mini import AdamMini
from tuneoff.models.loading import load_model
from tuneoff.models.optimizers import takes_weight_decay


def is_quick(kind: str) -> bool:
    """Whether a normal run takes it: a part of them (tests/helpers.py), and never SOAP, which takes minutes."""
    return kind != "soap" and in_this_part(kind)


NEW = [
    pytest.param(kind.name, marks=() if is_quick(kind.name) else pytest.mark.slow)
    for kind in (Optimizer.muon, *PACKAGED)
]
STEPS = 6


def words(name, method="full"):
    schedule = ["scheduler=constant"] if name == Optimizer.schedulefree.name else []
    return [f"method={method}", f"optimizer={name}", f"max_steps={STEPS}", "lr=1e-3", *schedule]


def make_reference(name, model, decay):
    """The package's optimizer as its documentation has it, with decay on matrices alone."""
    import pytorch_optimizer

    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim < 2]
    if name == Optimizer.muon.name:
        embeddings = model.get_input_embeddings().weight
        hidden = [p for p in matrices if p is not embeddings]
        muon = torch.optim.Muon(hidden, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        groups = [
            {"params": [embeddings], "weight_decay": decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [muon, torch.optim.AdamW(groups, fused=True)]
    if name == Optimizer.adam_mini.name:
        shape = {"num_embeds": 64, "num_heads": 4}
        return [pytorch_optimizer.AdamMini(model, lr=1e-3, weight_decay=decay, **shape)]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    decoupled = {"weight_decouple": True} if name == Optimizer.ademamix.name else {}
    kind = getattr(pytorch_optimizer, PACKAGED[Optimizer[name]])
    return [kind(groups, lr=1e-3, weight_decay=decay, **decoupled)]


@pytest.mark.parametrize("name", NEW)
def test_it_equals_its_package_used_directly(new_run, name):
    training = new_run(*words(name), "weight_decay=0.1")
    base = load_model(training.parts.experiment).train()
    training.fit()
    training.parts.recorder.close()
    optimizers = make_reference(name, base, 0.1)
    rates = [line["lr"][0] for line in training.parts.recorder.curve if "lr" in line]
    for step, rate in enumerate(rates):
        batch = collate(training.parts.order.step_rows(step), 0)
        hidden = base.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        logits = base.lm_head(hidden.flatten(0, 1)[batch.keep])
        torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum").div(
            len(batch.labels)
        ).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        base.zero_grad()
    if name == Optimizer.schedulefree.name:
        optimizers[0].eval()  # the run ends with an evaluation
    expected = dict(base.named_parameters())
    for key, weight in training.parts.model.named_parameters():
        assert apart(weight.detach(), expected[key].detach()) <= 1e-6, key


@pytest.mark.parametrize(
    ("method", "pure_bf16"),
    [
        ("full", "false"),
        ("lora", "false"),
        pytest.param("full", "true", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", NEW)
def test_a_run_that_was_killed_ends_bit_identical(new_run, tmp_path, name, method, pure_bf16):
    more = ["save_every=2", "eval_every=3", f"pure_bf16={pure_bf16}"]

    def prepare(resume, folder):
        return new_run(*words(name, method), *more, resume, folder=folder)

    ends = end_whole_and_killed(prepare, tmp_path, killed_in=5)
    assert [apart(one, other) for one, other in zip(*ends, strict=True)] == [0, 0]


@pytest.mark.parametrize("name", NEW)
def test_a_prediction_equals_a_real_step(settings, name):
    compare(*settings(*words(name))[:2], peaks=False)


@pytest.mark.slow
def test_schedule_free_evaluates_and_saves_the_average(new_run):
    training = new_run(*words(Optimizer.schedulefree.name))
    training.fit()
    training.parts.recorder.close()
    model, optimizer = training.parts.model, training.parts.optimizer
    ids = torch.arange(1, 17)[None]
    model.eval()(input_ids=ids)
    average = copy.deepcopy([p.detach() for p in model.parameters()])
    model.train()(input_ids=ids)
    trained = [p.detach() for p in model.parameters()]
    assert max(map(apart, average, trained)) > 1e-6
    model.eval()(input_ids=ids)
    assert max(map(apart, average, [p.detach() for p in model.parameters()])) <= 1e-6
    assert not optimizer.param_groups[0]["train_mode"]


@pytest.mark.slow
def test_schedule_free_generates_with_the_average(new_run):
    """By an adapter's own way to generate, which calls the base model."""
    training = new_run(*words(Optimizer.schedulefree.name, "lora"))
    training.fit()
    training.parts.recorder.close()
    model, optimizer = training.parts.model, training.parts.optimizer
    ids = torch.arange(1, 17)[None]
    model.train()(input_ids=ids)
    assert optimizer.param_groups[0]["train_mode"]
    model.eval().generate(input_ids=ids, max_new_tokens=2)
    assert not optimizer.param_groups[0]["train_mode"]


def test_heads_that_a_model_has_not_are_missed_in_one_line():
    model = torch.nn.Linear(2, 2)
    config = SimpleNamespace(hidden_size=2)
    config.get_text_config = lambda: config
    model.config = config
    with pytest.raises(
        ConfigError, match="^optimizer=adam_mini: needs a model with attention heads"
    ):
        AdamMini([{"params": [model.weight], "lr": 1e-3}], 1e-3, model)


def test_heads_need_not_divide_the_width():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads))
    optimizer = AdamMini([{"params": list(model.parameters())}], 1e-3, model)
    sizes_of_blocks = {group.get("parameter_per_head") for group in optimizer.inner.param_groups}
    assert sizes_of_blocks == {None, 4 * 8}


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)])
def test_factors_in_the_shape_of_a_matrix_do_not_decay(shape):
    factors = torch.nn.Parameter(torch.ones(shape))
    assert not takes_weight_decay("ia3_l.default", factors)
    assert takes_weight_decay("lora_A.default", torch.nn.Parameter(torch.rand(shape)))
    assert takes_weight_decay("mixer", torch.nn.Parameter(torch.ones(4, 4)))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["method=galore", "optimizer=muon"], "optimizer=muon: must be one of adamw, "),
        (["method=badam", "optimizer=lion"], "optimizer=lion: must be one of adamw, "),
        (["method=full", "optimizer=schedulefree"], "scheduler=cosine: must be constant"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, overrides, match):
    with pytest.raises(ConfigError, match=match):
        settings(*overrides)


def test_paged_states_need_cuda(new_run):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(ConfigError, match="optimizer=paged_adamw_8bit: needs a CUDA device"):
        new_run("method=full", "optimizer=paged_adamw_8bit")
