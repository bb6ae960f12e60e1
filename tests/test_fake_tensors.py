"""Fake tensors: what they remember of an operation is what PyTorch says of it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tuneoff.predict.fake_mode import FakeMode
from tuneoff.predict.predictor import Predictor

OPERATIONS = [
    lambda x: x + x,
    lambda x: x + 1,
    lambda x: x * True,
    lambda x: x.long() * 1,
    lambda x: x.long() * 1.0,
    lambda x: x.t(),
    lambda x: x.view(-1),
    lambda x: x[1:, ::2],
    lambda x: x.add_(1),
    lambda x: x.split(2),
    lambda x: x.max(0),
    lambda x: x.unbind(1),
    lambda x: x.expand(2, 4, 6),
    lambda x: torch.cat([x, x]),
    lambda x: x.unsqueeze_(0),
    lambda x: x @ x.t(),
    lambda x: torch.zeros(3),
    lambda x: x.to(torch.bfloat16),
    lambda x: torch.ops.aten._unsafe_view(x, [24]),
    lambda x: torch.native_layer_norm(x, [6], None, None, 1e-5),
]


def told(mode, operation, x) -> list:
    """What can be seen of a fake operation's results, and of its argument afterwards."""
    with mode:
        out = operation(x)
    results = [out] if isinstance(out, torch.Tensor) else list(out)
    return [
        (
            one.shape,
            one.stride(),
            one.storage_offset(),
            one.dtype,
            one.device,
            one is x,
            one.requires_grad,
            one.untyped_storage()._cdata == x.untyped_storage()._cdata,
            one.untyped_storage().nbytes(),
        )
        for one in [*results, x]
    ]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_what_fake_tensors_remember_is_what_pytorch_says(number):
    """A second call is answered from memory; 1 and 1.0 and True are no one argument."""
    plain, fakes = FakeTensorMode(), FakeMode()
    for operation in (*OPERATIONS[:5], OPERATIONS[number], OPERATIONS[number]):
        fresh = [mode.from_tensor(torch.zeros(4, 6)) for mode in (plain, fakes)]
        assert told(plain, operation, fresh[0]) == told(fakes, operation, fresh[1])


@pytest.mark.parametrize("method", ["full", "dora", "galore_layerwise", "badam"])
def test_a_step_like_the_one_before_is_answered_from_memory(settings, method, monkeypatch):
    """What makes a prediction quick, as a number of operations: no clock, which a busy machine would bend."""
    predictor = Predictor(
        *settings(f"method={method}", *["galore_rank=8"] * (method == "galore_layerwise"))[:2]
    )
    predictor.train("first step", 4)
    predictor.train("steady step", 4)
    asked = []
    ask = FakeTensorMode.dispatch

    def note(mode, operation, *words):
        # PyTorch marks an optimizer's step for its profiler, or not, by which class was made first in this process.
        if operation.namespace != "profiler":
            asked.append(operation)
        return ask(mode, operation, *words)

    monkeypatch.setattr(FakeMode, "dispatch", note)
    made = [size for _, size in predictor.train("steady step", 4).live.events if size > 0]
    assert len(made) > 100 and len(asked) < 0.05 * len(made)


def test_a_fake_operation_is_seen_once_whatever_it_is_made_of():
    seen, fakes = [], FakeMode()
    x = fakes.from_tensor(torch.zeros(4, 6))
    with fakes, fakes.watch(lambda operation, result: seen.append(operation)):
        for _ in range(2):
            torch.ops.aten._unsafe_view(x, [24])  # PyTorch's fake kernel calls another operation
    assert seen == [torch.ops.aten._unsafe_view.default] * 2
