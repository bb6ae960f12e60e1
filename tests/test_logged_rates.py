"""The rate that is logged is the rate that is applied, for every method."""

import pytest
import torch
from helpers import METHODS, quick_of

from tuneoff.record import Recorder
from tuneoff.training.run import Run

OWN = {
    "galore": ["galore_rank=8"],
    "galore_layerwise": ["galore_rank=8"],
    "badam": ["badam_switch_interval=2"],
    "badam_ratio": ["badam_switch_interval=2"],
}


@pytest.mark.parametrize("method", quick_of(METHODS, "loraplus", "galore_layerwise", "badam"))
def test_the_logged_rate_is_the_applied_one(settings, tmp_path, monkeypatch, method):
    """For every weight of every group at every step, read where the step is computed: in the class furthest down.

    There layer-wise GaLore steps one weight at a time, and BAdam's base optimizer its copies of the active block.
    """
    experiment, chosen, config = settings(
        f"method={method}", "max_steps=6", "weight_decay=0.1", *OWN.get(method, [])
    )
    training, make = Run(experiment, chosen, Recorder(tmp_path / "run")), chosen.make_optimizer
    applied: dict[type, dict] = {}

    def watch(cls):
        step = vars(cls)["step"]

        def watched(self, *args, **kwargs):
            seen = applied.setdefault(cls, {}).setdefault(training.trainer.step, {})
            seen.update(
                {
                    parameter: group["lr"]
                    for group in self.param_groups
                    for parameter in group["params"]
                }
            )
            return step(self, *args, **kwargs)

        monkeypatch.setattr(cls, "step", watched)

    def make_watched(model, run):
        optimizer = make(model, run)
        for cls in type(getattr(optimizer, "base_optimizer", optimizer)).__mro__:
            if "step" in vars(cls) and cls is not torch.optim.Optimizer:
                watch(cls)
        return optimizer

    chosen.make_optimizer = make_watched
    training.prepare({"config": config})
    training.fit()
    groups = training.parts.optimizer.param_groups
    group_of = {
        parameter: index for index, group in enumerate(groups) for parameter in group["params"]
    }
    logged = [line["lr"] for line in training.parts.recorder.curve if "lr" in line]
    lowest = applied[min(applied, key=lambda cls: len(cls.__mro__))]
    assert list(lowest) == list(range(6)) and len({rates[0] for rates in logged}) == 6
    for step, rates in enumerate(logged):
        assert len(rates) == len(groups) and len({*rates}) == (2 if method == "loraplus" else 1)
        if hasattr(training.parts.optimizer, "base_optimizer"):
            assert {*lowest[step].values()} == {*rates} and len(rates) == 1
        else:
            assert lowest[step] == {
                parameter: rates[index] for parameter, index in group_of.items()
            }
