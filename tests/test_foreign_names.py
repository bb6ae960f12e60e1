"""Names from elsewhere are answered by the command that works, which Hydra then takes."""

import shlex

import pytest
from helpers import composed

from tuneoff.cli.foreign_names import refuse_foreign_names
from tuneoff.config import ConfigError, suggest_nearest
from tuneoff.config.elsewhere import ELSEWHERE, NEEDLESS, list_our_words

# What is typed → what works.
CASES = {
    "model=meta-llama/Llama-3.2-1B": "model.path=meta-llama/Llama-3.2-1B",
    "data=my.jsonl": "data=json data.path=my.jsonl",
    "--lr 1e-4": "lr=1e-4",
    "--learning-rate=1e-4": "lr=1e-4",
    "method=qlora": "method=lora quantization=4bit",
    "finetuning_type=lora use_badam=true": "method=badam",
    "use_badam=true badam_mode=ratio": "method=badam badam_mode=ratio",
    "template=llama3": "data.template=llama3",
    "template=deepseek3": "data.template=chat",
    "bf16=true": "mixed_precision=bf16 (bf16: weights stay float32; dtype=bfloat16 takes half the memory)",
    "use_galore=true": "method=galore (use_galore: galore_scale=2.0 there, unless it is given)",
    "bf16=false lr=1": "lr=1",
    "adapter=vera": "method=vera",
    "finetuning_type=oft oft_block_size=32": "method=oft peft.oft_block_size=32",
    "val_size=500": "data.validation_rows=500",
    "train_on_prompt=true neftune_noise_alpha=5": "data.train_on=all neftune_alpha=5",
    "lr_scheduler_type=warmup_stable_decay": "scheduler=wsd",
    "learning_rate=1e-4,1e-3 -m": "lr=1e-4,1e-3 -m",
    "num_train_epochs=3.0 max_seq_len=2048": "epochs=3.0 max_length=2048",
    "bits=4": "quantization=4bit",
    "torch_compile=true": "compile=true",
    "load_in_8bit=true": "quantization=8bit",
    "target_modules=q_proj,v_proj": "'lora_target=[q_proj,v_proj]'",
    "target_modules=all-linear lora_r=16": "lora_target=all lora_rank=16",
    "optim=adamw_torch,paged_adamw_8bit": "optimizer=adamw,paged_adamw_8bit",
    "lr_scheduler_type=cosine": "scheduler=cosine",
    "flash_attn=fa2": "model.attention=flash_attention_2",
    "resume_from_checkpoint=true": "resume=auto",
    "val_size=0.1": "data.validation_share=0.1",
    "micro_batch_size=2 sample_packing=true": "batch_size=2 packing=true",
    "init_lora_weights=pissa_niter_16": "method=pissa",
    "use_badam=true badam_mode=layer": "method=badam badam_mode=layer",
    "report_to=none": "tracker=none",
}


def find_answer(typed: str) -> str:
    with pytest.raises(ConfigError, match="is written otherwise here; this works: ") as caught:
        refuse_foreign_names(shlex.split(typed))
    return str(caught.value).partition("this works: ")[2]


@pytest.mark.parametrize("typed", CASES)
def test_what_others_write_is_answered_by_what_works_here(typed):
    assert find_answer(typed) == f"python train.py {CASES[typed]}"


def test_what_needs_nothing_is_left_out_and_said():
    answer = find_answer("logging_steps=10 lr=1e-3")
    assert answer == "python train.py lr=1e-3 (logging_steps is left out: every step is logged)"


@pytest.mark.parametrize(
    ("typed", "file"),
    [
        ("deepspeed=examples/deepspeed/ds_z3_config.json lr=1", "zero3"),
        ("deepspeed=ds_z2_config.json lr=1", "zero2"),
        ("fsdp=full_shard lr=1", "fsdp2"),
    ],
)
def test_a_launcher_is_named_in_the_command(typed, file):
    launched = f"accelerate launch --config_file conf/accelerate/{file}.yaml train.py lr=1"
    assert find_answer(typed).startswith(launched)


@pytest.mark.parametrize(
    "typed",
    ["lr=1e-4 method=lora -m", "--config-name my", "-cd sweeps -cn tune", "use_dora=true", "x=1"],
)
def test_our_own_words_hydras_flags_and_nobodys_pass(typed):
    refuse_foreign_names(shlex.split(typed))


def test_a_yaml_is_no_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "gsm8k").mkdir()
    monkeypatch.chdir(tmp_path)
    refuse_foreign_names(["data=gsm8k", "model=tiny"])
    (tmp_path / "rows").mkdir()
    assert find_answer("data=./rows") == "python train.py data=json data.path=./rows"


VALUES = {
    "quantization_bit": "8",
    "finetuning_type": "full",
    "adapter": "lora",
    "peft_type": "LORA",
}


@pytest.mark.parametrize("key", sorted(ELSEWHERE))
def test_every_answer_names_settings_that_there_are(key):
    number = key in ("bits", "r", "rank", "lora_r") or key.endswith(("size", "steps", "len"))
    value = VALUES.get(key, "4" if number else "true")
    words = list_our_words(key, value) or []
    cfg = composed()
    for word in words:
        ours = word.partition("=")[0]
        parts = ours.split(".")
        node = cfg
        for part in parts[:-1]:
            node = node.get(part, {})
        assert parts[-1] in node or ours == "hydra.run.dir", word
    assert key not in NEEDLESS and key not in cfg


def test_a_yaml_that_uses_such_a_name_is_told_ours():
    assert suggest_nearest("learning_rate", []) == "; did you mean lr?"
    assert suggest_nearest("cutoff_len", []) == "; did you mean max_length?"
