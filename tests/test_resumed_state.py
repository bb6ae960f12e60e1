"""What a resume must find as it was, beside weights and optimizer: the base that adapters left, and half an evaluation."""

import json

import pytest
import torch
from helpers import Killed, kill_inside
from peft.tuners.lora import LoraLayer

from tuneoff.config import ConfigError
from tuneoff.distributed.stop import StopSignal
from tuneoff.methods import _lora_model
from tuneoff.training.evaluation import Evaluation
from tuneoff.training.failures import Interrupted
from tuneoff.training.schedule import Schedule


def last_losses(folder):
    """What the run ended with."""
    return json.loads((folder / "result.json").read_text())["loss"]


def finish(training):
    """Take a run to its end, and write its result."""
    training.fit()
    training.conclude()
    training.parts.recorder.finish("finished", training.measured())
    training.parts.recorder.close()


@pytest.mark.parametrize("method", ["lora_ga", pytest.param("pissa", marks=pytest.mark.slow)])
def test_another_machine_goes_on_with_the_base_that_the_run_began_with(
    new_run, tmp_path, monkeypatch, method
):
    """Which singular vectors are found, and their signs, depends on the machine; LoRA-GA's A and B are of different ones."""
    words = [f"method={method}", "lr=1e-6", "max_steps=4", "save_every=2", "eval_every=1"]
    finish(new_run(*words, folder=tmp_path / "whole"))
    training = new_run(*words, folder=tmp_path / "moved")
    kill_inside(training, lambda: training.trainer.step == 3)
    with pytest.raises(Killed):
        training.fit()
    training.parts.recorder.close()
    wrap_model = _lora_model.wrap_model

    def find_others(model, config):
        """Turn some of the directions of A around, as another machine may find them."""
        model = wrap_model(model, config)
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                with torch.no_grad():
                    _lora_model.add_to_base(layer, 1)
                    layer.lora_A["default"].weight[::2] *= -1
                    _lora_model.add_to_base(layer, -1)
        return model

    monkeypatch.setattr(_lora_model, "wrap_model", find_others)
    finish(new_run(*words, "resume=auto", folder=tmp_path / "moved"))
    whole = last_losses(tmp_path / "whole")
    assert last_losses(tmp_path / "moved")["final"] == pytest.approx(whole["final"], abs=1e-4)


def test_a_stop_between_two_sets_evaluates_both_again(new_run, tmp_path, monkeypatch):
    words = ["method=lora", "forgetting.data=stdlib", "max_steps=2", "save_best=validation"]
    words += ["which=best", "eval_every=2"]
    finish(new_run(*words, folder=tmp_path / "whole"))
    evaluate_second_set = Evaluation.evaluate_second_set

    def stop(self, step):
        if step == 2:
            raise StopSignal("stopped by SIGTERM")
        return evaluate_second_set(self, step)

    monkeypatch.setattr(Evaluation, "evaluate_second_set", stop)
    training = new_run(*words, folder=tmp_path / "stopped")
    with pytest.raises(Interrupted):
        training.fit()
    training.parts.recorder.close()
    monkeypatch.undo()
    finish(new_run(*words, "resume=auto", folder=tmp_path / "stopped"))
    assert last_losses(tmp_path / "stopped") == last_losses(tmp_path / "whole")
    lines = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    evaluated = [json.loads(line)["step"] for line in lines if "validation_loss" in line]
    assert evaluated == [0, 2]


@pytest.mark.parametrize(("share", "total", "step"), [(0.07, 100, 7), (0.28, 25, 7), (0.5, 3, 2)])
def test_a_run_pauses_where_its_share_is_done(settings, share, total, step):
    run, _, _ = settings("method=full", f"max_steps={total}", f"stop_after={share}")
    schedule = Schedule(run, total)
    assert next(number for number in range(total) if schedule.pauses(number)) == step


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (
            ["method=lorafa", "lora_target=[lm_head,q_proj]"],
            "^lora_target=embed_tokens: must name no embeddings",
        ),
        (
            ["method=loraplus", "loraplus_lr_embedding=0.5"],
            "^loraplus_lr_embedding=0.5: needs an adapter on the",
        ),
        (
            ["method=eva", "max_steps=null", "epochs=1", "lora_init_steps=5000"],
            r"^lora_init_steps=5000: must be at most \d+, the steps",
        ),
        (
            ["method=freeze", "freeze_trainable_modules=[act_fn]"],
            "^freeze_trainable_modules=act_fn: no such module with",
        ),
        (
            ["method=lora", "additional_target=[rotary_emb]"],
            "^additional_target=rotary_emb: no such module with weights",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_would_train_nothing_is_refused(new_run, words, match):
    with pytest.raises(ConfigError, match=match):
        new_run(*words)


def test_weights_of_two_types_need_some_that_are_frozen(new_run):
    words = ["dtype=bfloat16", "trainable_dtype=float32", "mixed_precision=bf16"]
    with pytest.raises(
        ConfigError, match="^trainable_dtype=float32: needs frozen weights, and here all train"
    ):
        new_run("method=full", *words)


def test_lorafa_does_not_go_on_with_dora(run, settings, tmp_path):
    run("method=dora", "max_steps=1", "save_model=true", folder=tmp_path)
    with pytest.raises(ConfigError, match="^use_dora=true: must be false where use_lorafa=true"):
        settings("method=lorafa", f"adapter_path={tmp_path}/model")


def test_a_module_in_full_beside_an_adapter_is_no_plain_lora(new_run):
    training = new_run("method=lora", "additional_target=[norm]")
    assert training.parts.method.find_plain_lora_rank(training.parts.model) is None
    training.parts.recorder.close()
