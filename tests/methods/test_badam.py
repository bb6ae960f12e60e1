"""BAdam: blocks and masks last exactly their interval, and its choices disturb nothing."""

import torch


def test_badam_blocks_last_exactly_their_interval(new_run):
    made = new_run("method=badam", "badam_switch_interval=2", "max_steps=9")
    active = []
    one_step = made.trainer.take_step

    def watch(step):
        active.append(made.parts.optimizer.active_block)
        one_step(step)

    made.trainer.take_step = watch
    made.fit()
    assert active == [0, 0, 1, 1, 2, 2, 0, 0, 1]


def test_badam_never_switches_at_minus_one(new_run):
    made = new_run("method=badam", "badam_switch_interval=-1")
    made.fit()
    assert made.parts.optimizer.active_block == 0
    assert made.parts.parameters["ever_trained"] == made.parts.parameters["trainable"]


def test_badam_reports_what_trains_and_what_never_does(new_run):
    made = new_run("method=badam", "badam_switch_interval=1")
    assert made.parts.parameters["ever_trained"] == 3 * made.parts.parameters["trainable"]
    assert made.parts.recorder.run["facts"]["never_trained"] == [
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    made.parts.recorder.close()
    made = new_run("method=badam", "badam_include_embedding=true", "badam_include_lm_head=true")
    assert made.parts.recorder.run["facts"]["never_trained"] == []
    assert made.parts.optimizer.block_num == 5


def test_badam_ratio_has_no_untied_head_to_need_and_can_be_clipped(run, new_run):
    assert run("method=badam_ratio", "max_grad_norm=0.1")["status"] == "finished"


def test_badam_ratio_holds_its_mask_over_micro_batches(new_run, tmp_path):
    """Two micro-batches give the step of one batch, also where the mask is about to move."""
    weights = []
    for name, size, parts in (("one", 4, 1), ("two", 2, 2)):
        made = new_run(
            "method=badam_ratio",
            "badam_switch_interval=2",
            f"batch_size={size}",
            f"gradient_accumulation_steps={parts}",
            "max_steps=2",
            folder=tmp_path / name,
        )
        made.fit()
        weights.append({n: p.detach() for n, p in made.parts.model.named_parameters()})
    changed = 0
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() <= 2e-5 * value.abs().max(), name
        changed += 1
    assert changed


def test_random_choices_leave_the_global_generator_alone(new_run):
    for method, option in (
        ("badam", "badam_switch_mode=random"),
        ("badam_ratio", "badam_mask_mode=scatter"),
    ):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        training = new_run(f"method={method}", option)
        torch.set_rng_state(before)
        if method == "badam":
            training.parts.optimizer.switch_trainable_params()
        assert torch.equal(torch.get_rng_state(), before)
        training.parts.recorder.close()


def test_badam_is_silent_unless_asked(new_run, capfd):
    made = new_run("method=badam", "badam_switch_interval=1")
    made.fit()
    assert "trainable" not in capfd.readouterr().out
    made.parts.recorder.close()
    made = new_run("method=badam", "badam_verbose=1")
    assert "model.layers.0." in capfd.readouterr().out
