"""Contract 1: every method equals a reference, written here or the package used directly, over 24 float32 steps."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import quick_of
from torch import nn

from tuneoff.config import derive_seed
from tuneoff.data import collate
from tuneoff.models.loading import load_model

STEPS, RATE = 24, 1e-3
COMMON = (f"max_steps={STEPS}", f"lr={RATE}", "weight_decay=0.1")


@pytest.fixture
def trained(new_run):
    """`trained("method=full", …)`: a run after its last step."""

    def make(*overrides):
        training = new_run(*COMMON, *overrides)
        training.fit()
        return training

    return make


def base(training) -> nn.Module:
    """The untouched model that the run started from."""
    torch.manual_seed(derive_seed(training.parts.experiment.seed, "modules"))
    return load_model(replace(training.parts.experiment)).train()


def rate(step: int) -> float:
    """Warm-up over 3 %, then cosine, both by the progress at the middle of the step."""
    done = (step + 0.5) / STEPS
    return done / 0.03 if done < 0.03 else 0.5 * (1 + math.cos(math.pi * (done - 0.03) / 0.97))


def loss_of(model, batch):
    """Per label token of the whole step. The same operations as `step.py`, which test_step.py compares with
    transformers' own loss: in float32 Adam turns the rounding of another order into steps of its own.
    """
    hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[batch.keep])
    total = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
    return total / len(batch.labels)


def descend(training, model, optimizer, before=None):
    """The reference loop: backward, then the optimizer at the scheduled rate."""
    initial = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        if before:
            before(step)
        loss_of(model, collate(training.parts.order.step_rows(step), 0)).backward()
        for group, start in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = start * rate(step)
        optimizer.step()
        optimizer.zero_grad()
    return model


def worst(model, reference):
    """(difference, name) of the tensor that differs most: largest difference over largest value."""
    expected = dict(reference.named_parameters())
    return max(
        (
            float(
                (p.detach() - expected[name].detach()).abs().max()
                / p.detach().abs().max().clamp(min=1e-12)
            ),
            name,
        )
        for name, p in model.named_parameters()
    )


@pytest.fixture
def assert_same(measured):
    """`assert_same(training, reference)`: to float error, tensor by tensor."""

    def check(training, reference):
        difference, name = worst(training.parts.model, reference)
        measured(training.parts.experiment.method, "reference", difference)
        assert difference <= 1e-6, f"{name}: {difference}"

    return check


def adamw(parameters):
    """PyTorch's AdamW; matrices decay, vectors do not."""
    parameters = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=RATE,
        fused=True,
    )


class HandAdamW:
    """AdamW as its paper writes it (Loshchilov and Hutter 2019, algorithm 2), for chosen entries of each tensor."""

    def __init__(self, parameters, decay=0.1):
        self.parameters, self.decay = list(parameters), decay
        self.param_groups = [{"lr": RATE}]
        self.reset()

    def reset(self):
        self.step_count = 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        self.step_count += 1
        lr = self.param_groups[0]["lr"]
        for p, m, v in zip(self.parameters, self.first, self.second, strict=True):
            if p.grad is None:
                continue
            p.mul_(1 - lr * (self.decay if p.ndim > 1 else 0.0))
            m.lerp_(p.grad, 0.1)  # m + 0.1 (g - m): the rounding of any other form grows in Adam
            v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            root = v.sqrt() / math.sqrt(1 - 0.999**self.step_count)
            p.addcdiv_(m, root + 1e-8, value=-lr / (1 - 0.9**self.step_count))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


# ---------------------------------------------------------------- full and freeze
def test_full_equals_a_hand_written_adamw(trained, assert_same):
    training = trained("method=full")
    model = base(training)
    assert_same(training, descend(training, model, HandAdamW(model.parameters())))


@pytest.mark.parametrize(("layers", "open_"), [(2, (1, 2)), (-1, (0,))])
def test_freeze_equals_a_hand_written_adamw_on_its_layers(trained, assert_same, layers, open_):
    training = trained("method=freeze", f"freeze_trainable_layers={layers}")
    model = base(training).requires_grad_(False)
    for index in open_:
        model.model.layers[index].requires_grad_(True)
    assert_same(
        training,
        descend(training, model, HandAdamW(p for p in model.parameters() if p.requires_grad)),
    )


# ---------------------------------------------------------------- the LoRA family, against PEFT
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("method", "settings_"),
    [
        ("lora", {}),
        ("dora", {"use_dora": True}),
        ("rslora", {"use_rslora": True}),
        ("pissa", {"init_lora_weights": "pissa_niter_16"}),
    ],
)
def test_the_family_equals_peft(trained, assert_same, method, settings_):
    from peft import LoraConfig, get_peft_model

    training = trained(f"method={method}")
    model = get_peft_model(
        base(training), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, **settings_)
    )
    assert_same(training, descend(training, model, adamw(model.parameters())))


def test_loraplus_equals_pefts_own_optimizer(trained, assert_same):
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    training = trained("method=loraplus", "loraplus_lr_ratio=16")
    model = get_peft_model(base(training), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=RATE,
        loraplus_lr_ratio=16,
        loraplus_weight_decay=0.1,
        fused=True,
    )
    assert_same(training, descend(training, model, optimizer))


def test_loraplus_leaves_dora_magnitudes_at_the_rate_of_a(trained):
    training = trained("method=loraplus", "use_dora=true", "max_steps=1")
    rates = {}
    for group in training.parts.optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter)] = group["initial_lr"], group["weight_decay"]
    for name, parameter in training.parts.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)][0] == pytest.approx(
                RATE * 16 if "lora_B" in name else RATE
            ), name
            assert rates[id(parameter)][1] == (0.1 if parameter.ndim > 1 else 0.0), name


# ---------------------------------------------------------------- GaLore, against galore-torch
KINDS = ("std", "reverse_std", "right", "left", "full")


def galore_groups(model, kind):
    low = [p for name, p in model.named_parameters() if any(target in name for target in TARGETS)]
    rest = [
        p for name, p in model.named_parameters() if not any(target in name for target in TARGETS)
    ]
    return [
        {
            "params": low,
            "rank": 8,
            "update_proj_gap": 7,
            "scale": 0.25,
            "proj_type": kind,
            "weight_decay": 0.1,
        },
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("method", ["galore", "galore_layerwise"])
@pytest.mark.parametrize("kind", quick_of(KINDS, "reverse_std"))
def test_galore_equals_galore_torch(trained, assert_same, kind, method):
    """And so layer-wise equals ordinary GaLore."""
    from galore_torch import GaLoreAdamW

    training = trained(
        f"method={method}", "galore_rank=8", "galore_update_interval=7", f"galore_proj_type={kind}"
    )
    model = base(training)
    optimizer = GaLoreAdamW(
        galore_groups(model, kind), lr=RATE, eps=1e-8, no_deprecation_warning=True
    )
    assert_same(training, descend(training, model, optimizer))


def test_galore_adafactor_equals_galore_torch(trained, assert_same):
    from galore_torch import GaLoreAdafactor

    training = trained(
        "method=galore", "galore_rank=8", "galore_update_interval=7", "optimizer=adafactor"
    )
    model = base(training)
    optimizer = GaLoreAdafactor(
        galore_groups(model, "std"), lr=RATE, scale_parameter=False, relative_step=False
    )
    assert_same(training, descend(training, model, optimizer))


# ---------------------------------------------------------------- BAdam
MODES = ("ascending", "descending", "random", "fixed")
ORDERS = {
    "ascending": [0, 1, 2, 0, 1, 2, 0, 1],
    "descending": [2, 1, 0, 2, 1, 0, 2, 1],
    "fixed": [1] * 8,
}


@pytest.mark.parametrize("mode", quick_of(MODES, "random"))
def test_badam_equals_adamw_on_the_active_block_with_fresh_state(trained, assert_same, mode):
    start = "badam_start_block=1" if mode == "fixed" else "badam_start_block=null"
    training = trained(
        "method=badam", "badam_switch_interval=3", f"badam_switch_mode={mode}", start
    )
    model = base(training).requires_grad_(False)
    layers = model.model.layers
    order = ORDERS.get(mode)
    if order is None:
        generator = torch.Generator().manual_seed(derive_seed(0, "blocks"))
        order = [
            block
            for _ in range(3)
            for block in reversed(torch.randperm(3, generator=generator).tolist())
        ]
        assert len(set(order[:3])) == len(set(order[3:6])) == 3
    state = {}

    def before(step):
        if step % 3 == 0:
            model.requires_grad_(False)
            layers[order[step // 3]].requires_grad_(True)
            # PyTorch's own: each fresh state divides by a tiny root, which turns another rounding into a step.
            state["optimizer"] = adamw(model.parameters())

    class Active:
        param_groups = [{"lr": RATE}]

        def step(self):
            for group in state["optimizer"].param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            state["optimizer"].step()

        def zero_grad(self):
            model.zero_grad()

    assert_same(training, descend(training, model, Active(), before=before))


@pytest.mark.parametrize("mask", ["adjacent", "scatter"])
def test_badam_ratio_equals_a_masked_adamw(trained, assert_same, mask):
    training = trained(
        "method=badam_ratio",
        "badam_switch_interval=5",
        "badam_update_ratio=0.3",
        f"badam_mask_mode={mask}",
    )
    model = base(training)
    model.model.embed_tokens.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def chosen(parameter, cycle):
        size = parameter.numel()
        if size < 100:
            return torch.ones_like(parameter, dtype=torch.bool)
        count = int(size * 0.3)
        places = torch.arange(cycle * count, (cycle + 1) * count) % size
        if mask == "scatter":
            places = torch.randperm(
                size, generator=torch.Generator().manual_seed(derive_seed(0, "blocks"))
            )[places]
        flat = torch.zeros(size, dtype=torch.bool)
        flat[places] = True
        return flat.reshape(parameter.shape)

    class Masked:
        """The package's Adam has eps inside the bias correction (as transformers' AdamW had)."""

        param_groups = [{"lr": RATE}]

        @torch.no_grad()
        def step(self):
            lr = self.param_groups[0]["lr"]
            if self.count % 5 == 0:
                self.masks = [chosen(p, self.count // 5) for p in parameters]
                self.first, self.second = [
                    [torch.zeros_like(p) for p in parameters] for _ in range(2)
                ]
            self.count += 1
            local = (self.count - 1) % 5 + 1
            for p, on, m, v in zip(parameters, self.masks, self.first, self.second, strict=True):
                grad = p.grad * on
                m.add_((grad - m) * (1 - 0.9))
                v.add_((grad**2 - v) * (1 - 0.999))
                size = lr * math.sqrt(1 - 0.999**local) / (1 - 0.9**local)
                if p.ndim > 1:
                    p.add_(p * on * (-lr * 0.1))
                p.add_(-size * (m / (v.sqrt() + 1e-8)) * on)

        count = 0

        def zero_grad(self):
            model.zero_grad()

    assert_same(training, descend(training, model, Masked()))
