"""YAMLs of LLaMA-Factory: each key taken, ignored or refused, with its defaults written out, and trained unchanged.

`python tests/test_llamafactory.py > tests/LLAMAFACTORY.md` writes what becomes of the examples in its repository, whose
keys and values are in `llamafactory_examples.json`: those of version 0.9.5 and some days later.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, composed

from tuneoff.cli.llamafactory.command import describe, list_words, write_command, write_yaml
from tuneoff.cli.llamafactory.expansion import expand_files
from tuneoff.cli.llamafactory.translate import translate
from tuneoff.config import ConfigError, check_task, resolve_config
from tuneoff.config.set_lists import write_as_choices

FACTS = json.loads((ROOT / "tests" / "llamafactory_examples.json").read_text("utf-8"))
TABLE = ROOT / "tests" / "LLAMAFACTORY.md"
# The keys for which examples are refused.
OTHER_LOSSES = {"use_dft_loss", "use_asft_loss", "use_eaft_loss"}
NO_TEXT = "dataset"  # of images
REFUSED = {
    "ascend/qwen3vlmoe_full_sft_fsdp2.yaml": {NO_TEXT},
    "extras/asft/llama2_full_asft.yaml": {"use_asft_loss", "asft_alpha", "dataset"},
    "extras/asft/qwen2_full_asft.yaml": {"use_asft_loss", "asft_alpha", "dataset"},
    "extras/dft/qwen2_full_sft.yaml": {"use_dft_loss"},
    "extras/eaft/qwen25_05b_eaft_full.yaml": {"use_eaft_loss"},
    "extras/fp8/llama3_fp8_deepspeed_sft.yaml": {"fp8", "deepspeed"},
    "extras/fp8/llama3_fp8_fsdp_sft.yaml": {"fp8"},
    "extras/llama_pro/llama3_freeze_sft.yaml": {"use_llama_pro"},
    "extras/mod/llama3_full_sft.yaml": {"mixture_of_depths"},
    "extras/nlg_eval/llama3_lora_predict.yaml": {"do_predict", "dataset"},
    "extras/oft/qwen2_5vl_oft_sft.yaml": {NO_TEXT},
    "extras/qoft/llama3_oft_sft_bnb_npu.yaml": {"double_quantization"},
    "ktransformers/train_lora/deepseek_v2_lora_sft_kt.yaml": {"use_kt"},
    "ktransformers/train_lora/deepseek_v3_int8_lora_sft_kt.yaml": {"use_kt"},
    "ktransformers/train_lora/deepseek_v3_lora_sft_kt.yaml": {"use_kt"},
    "ktransformers/train_lora/qwen3_5moe_lora_sft_kt.yaml": {"use_kt"},
    "ktransformers/train_lora/qwen3moe_lora_sft_kt.yaml": {"use_kt"},
    "ktransformers/train_lora/qwen3vlmoe_lora_sft_kt.yaml": {"use_kt", NO_TEXT},
    "megatron/qwen2_vl_full.yaml": {"pipeline_model_parallel_size", NO_TEXT},
    "megatron/qwen3_moe_full.yaml": {"pipeline_model_parallel_size"},
    "megatron_bridge/llama3_sft.yaml": {"use_distributed_optimizer"},
    "train_full/mossvl_full_sft.yaml": {NO_TEXT},
    "train_full/qwen3vl_full_sft.yaml": {NO_TEXT},
    "train_lora/mossvl_lora_sft.yaml": {NO_TEXT},
    "train_lora/qwen3_lora_sft_ray.yaml": {"dataset"},
    "train_lora/qwen3vl_lora_sft.yaml": {NO_TEXT},
    "train_qlora/qwen3_lora_sft_bnb_npu.yaml": {"double_quantization"},
}
LEAST = {"model_name_or_path": "tuneoff:tiny", "dataset": "sums", "template": "alpaca"}


def list_values(name: str) -> dict:
    """The keys and values of an example."""
    facts = FACTS["files"][name]
    common = {key: FACTS["common"][key] for key in FACTS["common"] if key not in facts["absent"]}
    return {**common, **facts["values"]}


def write_file(folder: Path, values: dict, name: str = "run.yaml", sets: dict | None = None):
    """A YAML with its data sets beside it."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    rows = [{"instruction": f"{n} + {n}?", "output": str(2 * n)} for n in range(24)]
    (data / "sums.json").write_text(json.dumps(rows))
    info = {"sums": {"file_name": "sums.json"}, **FACTS["sets"], **(sets or {})}
    (data / "dataset_info.json").write_text(json.dumps(info))
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


@cache
def translate_examples() -> dict:
    """Each example's translation by its name."""
    with tempfile.TemporaryDirectory() as folder:
        translations = {}
        for name in FACTS["files"]:
            path = write_file(Path(folder), list_values(name))
            result = translate(path)
            for line in result.lines:
                line.text = line.text.replace(f"{folder}/", "")
            translations[name] = result
    return translations


@pytest.fixture
def read(tmp_path):
    """`read(key=value, …)`: the translation of a small YAML with these keys."""
    return lambda sets=None, **values: translate(
        write_file(tmp_path, {**LEAST, **values}, sets=sets)
    )


def find_line(result, key: str):
    (line,) = [line for line in result.lines if line.key == key]
    return line


# ---------------------------------------------------------------- the examples
def write_table() -> str:
    """What becomes of each example, and of each of their keys with each of its values, as Markdown."""
    translations = translate_examples()
    taken = [name for name, result in translations.items() if not result.refused]
    parts = [
        "# The examples of LLaMA-Factory",
        "",
        "Made by `python tests/test_llamafactory.py > tests/LLAMAFACTORY.md` from the keys of the YAMLs under its",
        f"`examples/` whose stage is pt or sft: {len(translations)}, of which {len(taken)} are taken.",
        "",
        "| file | | method, or what it would need |",
        "|---|---|---|",
    ]
    for name, result in translations.items():
        verdict = "refused" if result.refused else "taken"
        reasons = [f"`{line.key}` {line.text}" for line in result.refused]
        parts.append(f"| {name} | {verdict} | {'; '.join(reasons) or result.choice} |")
    parts += ["", "What becomes of the keys of those that are taken:", ""]
    parts += ["| key | value there | | as what, or why |", "|---|---|---|---|"]
    rows = set()
    for name in taken:
        result = translations[name]
        for line in result.lines:
            value = "" if line.verdict == "default" else json.dumps(line.value)
            text = line.text.replace("|", "\\|")
            rows.add(f"| {line.key} | {value} | {line.verdict} | {text} |")
    return "\n".join([*parts, *sorted(rows)]) + "\n"


def test_each_example_is_taken_or_refused_for_a_reason_that_is_written_down():
    translations = translate_examples()
    assert len(translations) == 52
    for name, result in translations.items():
        refused = {line.key for line in result.refused}
        if name in REFUSED:
            assert refused >= REFUSED[name], name
        else:
            assert not refused, (name, [line.describe() for line in result.refused])
        assert all(line.text for line in result.lines), name
        said = [line.key for line in result.lines]
        assert set(list_values(name)) <= set(said) and len(said) == len(set(said)), name
    assert TABLE.read_text("utf-8") == write_table()


@pytest.mark.parametrize("choice", sorted({each.choice for each in translate_examples().values()}))
def test_the_words_of_an_example_compose(choice):
    """One for each method; the settings are then what the words say."""
    names = [
        name
        for name, result in translate_examples().items()
        if result.choice == choice and not result.refused
    ]
    words = translate_examples()[names[0]].words if names else {}
    ours = {key: value for key, value in words.items() if not key.startswith("hydra.")}
    config = composed(*write_as_choices(list_words(ours))) if ours else {}
    for key, value in ours.items():
        node = config
        for part in key.split("."):
            node = node[part]
        if key not in ("data", "peft_target", "lora_target", "galore_target"):
            assert str(getattr(node, "name", node)).lower() in (
                value.lower(),
                str(yaml.safe_load(value)).lower(),
                str(float(value)) if value.replace(".", "").isdigit() else value,
            ), key


# ---------------------------------------------------------------- defaults and meanings
def test_what_a_file_does_not_say_is_written_out(read):
    words = read().words
    expected = {
        "method": "lora",
        "lr": "5e-05",
        "scheduler": "linear",
        "warmup_ratio": "0",
        "epochs": "3",
        "seed": "42",
        "max_length": "2048",
        "batch_size": "8",
        "max_grad_norm": "1.0",
        "gradient_checkpointing": "true",
        "data.validation_share": "0",
        "data.splits.validation": "null",
        "tracker": "none",
        "save_model": "true",
    }
    assert {key: words[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"finetuning_type": "full"}, {"method": "full"}),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 4}, {"method": "freeze"}),
        ({"finetuning_type": "oft", "oft_target": "all"}, {"method": "oft", "peft_target": "all"}),
        ({"use_dora": True}, {"method": "dora", "use_dora": "true"}),
        ({"use_rslora": True}, {"method": "rslora"}),
        ({"pissa_init": True, "pissa_iter": 4}, {"method": "pissa", "pissa_iter": "4"}),
        ({"loraplus_lr_ratio": 16.0}, {"method": "loraplus", "loraplus_lr_ratio": "16.0"}),
        ({"use_dora": False, "pissa_init": False}, {"method": "lora"}),
        (
            {"finetuning_type": "full", "use_galore": True},
            {"method": "galore", "galore_scale": "2.0", "max_grad_norm": "1.0"},
        ),
        (
            {"finetuning_type": "full", "use_galore": True, "galore_layerwise": True},
            {"method": "galore_layerwise", "max_grad_norm": "null"},
        ),
        ({"finetuning_type": "full", "use_badam": True}, {"method": "badam"}),
        (
            {"finetuning_type": "full", "use_apollo": True, "apollo_layerwise": True},
            {"method": "apollo"},
        ),
        ({"apollo_rank": 4, "apollo_scale_front": True}, {"method": "lora"}),
        (
            {"finetuning_type": "full", "use_badam": True, "badam_mode": "ratio"},
            {"method": "badam_ratio"},
        ),
        (
            {"finetuning_type": "full", "use_badam": True, "bf16": True},
            {"dtype": "bfloat16", "mixed_precision": "bf16"},
        ),
        ({"bf16": True}, {"dtype": "bfloat16", "trainable_dtype": "float32"}),
        ({"finetuning_type": "full", "bf16": True}, {"dtype": "float32"}),
        ({"finetuning_type": "full", "pure_bf16": True}, {"pure_bf16": "true"}),
        ({"lora_target": "q_proj,v_proj"}, {"lora_target": "[q_proj,v_proj]"}),
        ({"max_steps": 7, "num_train_epochs": 2}, {"max_steps": "7"}),
        (
            {"num_train_epochs": 2.0, "warmup_ratio": 0.0123456789},
            {"epochs": "2", "warmup_ratio": "0.0123456789"},
        ),
        ({"warmup_steps": 20, "warmup_ratio": 0.1}, {"warmup_steps": "20"}),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, {"warmup_ratio": "0"}),
        (
            {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1},
            {"scheduler": "constant", "warmup_ratio": "0.1"},
        ),
        (
            {
                "lr_scheduler_type": "cosine_with_min_lr",
                "learning_rate": "1e-4",
                "lr_scheduler_kwargs": {"min_lr": 1e-5},
            },
            {"scheduler": "cosine", "min_lr_ratio": "0.1", "lr": "0.0001"},
        ),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "warmup_ratio": 0.1},
            {"scheduler": "wsd", "decay_ratio": "0.6"},
        ),
        ({"val_size": 500}, {"data.validation_rows": "500"}),
        (
            {"val_size": 0.1, "max_samples": 1000},
            {"data.limit": "900", "data.eval_limit": "100", "data.validation_share": "0.1"},
        ),
        ({"max_samples": 1000}, {"data.limit": "1000", "data.eval_limit": None}),
        ({"val_size": 0.1}, {"data.validation_share": "0.1"}),
        ({"train_on_prompt": True}, {"data.train_on": "all"}),
        ({"mask_history": True}, {"data.train_on": "last_answer"}),
        ({"neat_packing": True}, {"packing": "true"}),
        ({"neftune_noise_alpha": 5}, {"neftune_alpha": "5"}),
        ({"torch_compile": True}, {"compile": "true"}),
        ({"use_muon": True, "finetuning_type": "full"}, {"optimizer": "muon"}),
        ({"use_adam_mini": True, "finetuning_type": "full"}, {"optimizer": "adam_mini"}),
        ({"optim": "paged_adamw_8bit"}, {"optimizer": "paged_adamw_8bit"}),
        ({"quantization_bit": 4}, {"quantization": "4bit"}),
        ({"template": "llama3"}, {"data.template": "llama3"}),
        ({"template": "deepseek3"}, {"data.template": "chat"}),
        ({"disable_gradient_checkpointing": True}, {"gradient_checkpointing": "false"}),
        ({"report_to": ["wandb"]}, {"tracker": "wandb", "wandb_mode": "online"}),
        ({"eval_strategy": "steps", "eval_steps": 50}, {"eval_every": "50"}),
        ({"eval_strategy": "steps", "logging_steps": 7}, {"eval_every": "7"}),
        ({"disable_shuffling": True}, {"shuffle": "false"}),
        ({"train_sampling_strategy": "sequential"}, {"shuffle": "false"}),
        ({"default_system": "Be brief."}, {"data.default_system": "Be brief."}),
        ({"train_from_scratch": True}, {"model.pretrained": "false"}),
        ({"report_to": "trackio"}, {"tracker": "trackio"}),
        ({"push_to_hub": True, "hub_model_id": "a/b"}, {"push": "a/b", "save_model": "true"}),
        (
            {
                "eval_strategy": "steps",
                "eval_steps": 5,
                "load_best_model_at_end": True,
                "early_stopping_steps": 3,
            },
            {"save_best": "validation", "which": "best", "patience": "3"},
        ),
        (
            {"eval_dataset": "identity", "default_system": "Be brief.", "max_samples": 9},
            {
                "data": "[sums:json,identity:json]",
                "data.sets.identity.only_for": "validation",
                "data.sets.identity.limit": "9",
                "data.sets.sums.only_for": None,
                "data.sets.sums.splits.validation": "null",
                "data.sets.identity.default_system": "Be brief.",
            },
        ),
    ],
)
def test_keys_become_ours(read, values, words):
    result = read(**values)
    assert not result.refused, [line.describe() for line in result.refused]
    assert {key: result.words.get(key) for key in words} == words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"packing": True}, "packing without neat_packing lets examples see each other there"),
        ({"template": "qwen3"}, "begins answers with an empty thought there"),
        ({"template": "deepseek3"}, "is not known here by its text"),
        (
            {"finetuning_type": "full", "use_galore": True, "galore_layerwise": True},
            "ignores schedule",
        ),
        ({"deepspeed": "examples/deepspeed/ds_z2_offload_config.json"}, "offload"),
    ],
)
def test_what_has_another_meaning_is_warned_of(read, values, said):
    assert said in "\n".join(read(**values).warnings)


@pytest.mark.parametrize(
    ("values", "key", "said"),
    [
        ({"stage": "dpo"}, "stage", "preferences"),
        ({"use_galore": True}, "use_galore", "one method a run"),
        ({"use_dft_loss": True}, "use_dft_loss", "another loss"),
        ({"eval_dataset": "sums"}, "eval_dataset", "no row judges here that is"),
        ({"eval_dataset": "identity", "val_size": 0.1}, "val_size", "beside eval_dataset"),
        ({"eval_dataset": "nope"}, "eval_dataset", "has no nope"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end", "needs eval_strategy"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor", "another loss"),
        (
            {"finetuning_type": "full", "use_apollo": True, "apollo_scale_front": True},
            "apollo_scale_front",
            "limiter",
        ),
        ({"quantization_bit": 2}, "quantization_bit", "4bit and 8bit"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type", "there are linear"),
        ({"lr_scheduler_kwargs": "{"}, "lr_scheduler_kwargs", "must be numbers by name"),
        ({"learning_rate": "fast"}, "learning_rate", "must be a number"),
        ({"bf16": "maybe"}, "bf16", "must be true or false"),
        ({"packing": 3}, "packing", "must be true or false"),
        ({"use_badam": "maybe"}, "use_badam", "must be true or false"),
        ({"no_such_key": 1}, "no_such_key", "no key of LLaMA-Factory"),
        ({"dataset": "suns"}, "dataset", "no suns; did you mean sums?"),
        ({"dataset_dir": "nowhere"}, "dataset", "neither here nor above the YAML"),
        ({"resume_from_checkpoint": "saves/checkpoint-5"}, "resume_from_checkpoint", "of ours"),
    ],
)
def test_what_cannot_be_is_refused_with_what_it_needs(read, values, key, said):
    line = find_line(read(**values), key)
    assert line.verdict == "refused" and said in line.text


@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        (
            {
                "file_name": "talks.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "system": "sys"},
                "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user"},
            },
            {"data.columns.messages": "messages", "data.columns.system": "sys"},
        ),
        (
            {"file_name": "t.jsonl", "formatting": "sharegpt"},
            {"data.columns.messages": "conversations"},
        ),
        (
            {
                "hf_hub_url": "owner/set",
                "subset": "en",
                "split": "main",
                "columns": {
                    "prompt": "q",
                    "query": "about",
                    "response": "a",
                    "history": "old",
                    "system": "sys",
                },
            },
            {
                "data.path": "owner/set",
                "data.subset": "en",
                "data.splits.train": "main",
                "data.columns.prompt": "q",
                "data.columns.input": "about",
                "data.columns.completion": "a",
                "data.columns.history": "old",
                "data.columns.system": "sys",
            },
        ),
    ],
)
def test_a_set_has_its_files_columns_and_tags(read, entry, settings):
    words = read({"mine": entry}, dataset="mine").words
    assert {key: words.get(key) for key in settings} == settings


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"file_name": "t.json", "columns": {"tools": "tools"}}, "tools are not read"),
        ({"file_name": "t.json", "ranking": True}, "better and a worse answer"),
        ({"ms_hub_url": "a/b"}, "ms_hub_url"),
        (
            {"file_name": "t.json", "formatting": "sharegpt", "tags": {"user_tag": "me"}},
            "user_tag=me; human, user are read",
        ),
    ],
)
def test_a_set_that_is_not_read_is_refused(read, entry, said):
    assert said in find_line(read({"mine": entry}, dataset="mine"), "dataset").text


# ---------------------------------------------------------------- the command line
def test_import_prints_a_line_for_each_key_the_command_and_a_yaml(read, tmp_path):
    result = read(finetuning_type="full", deepspeed="ds_z3_config.json", plot_loss=True)
    lines = describe(result)
    assert sum(line.startswith(("taken", "ignored", "refused")) for line in lines) == len(LEAST) + 3
    command = write_command(result)
    assert command.startswith("accelerate launch --config_file conf/accelerate/zero3.yaml train.py")
    ours = tmp_path / "mine"
    ours.mkdir()
    content = yaml.safe_load(write_yaml(result.words))
    assert {"override method": "full"} in content["defaults"]
    words = [word for word in shlex.split(command)[5:] if not word.startswith("hydra.")]
    config = resolve_config(composed(*words))
    for key in ("lr", "max_length", "seed", "save_model", "scheduler"):
        assert str(config[key]) == str(content[key])
    assert config["data"]["path"] == content["data"]["path"]


def test_an_import_needs_no_torch(tmp_path):
    """In a process of its own: exit code 0, or 2 where a key is refused; and the shell sees the command."""
    code = (
        "import sys; from tuneoff.__main__ import main; sys.argv = ['tuneoff', 'import', sys.argv[1]]; "
        "exit_code = main(); assert not {'torch', 'transformers', 'peft'} & set(sys.modules); sys.exit(exit_code)"
    )
    for values, expected in ((LEAST, 0), ({**LEAST, "stage": "dpo"}, 2)):
        file = str(write_file(tmp_path, values))
        done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
        assert done.returncode == expected, done.stderr
        assert "python train.py method=lora" in done.stdout


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        expand_files([f"llamafactory={tmp_path / 'no.yaml'}"])
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="holds no keys"):
        expand_files([f"llamafactory={tmp_path / 'list.yaml'}"])


def test_what_is_typed_goes_before_the_file(tmp_path):
    file = write_file(tmp_path, {**LEAST, "lora_rank": 4, "num_train_epochs": 2})
    words = expand_files([f"llamafactory={file}", "max_steps=5", "lr=1"])
    assert words[-2:] == ["max_steps=5", "lr=1"]
    keys = [word.partition("=")[0] for word in words]
    assert "epochs" not in keys and keys.count("lr") == 1 and "lora_rank" in keys
    assert f"llamafactory={file}" in words
    # Another method takes none of the options of the file's.
    keys = [
        word.partition("=")[0] for word in expand_files([f"llamafactory={file}", "method=full"])
    ]
    assert "lora_rank" not in keys and keys.count("method") == 1


def test_a_yaml_of_ours_names_no_file(tmp_path):
    with pytest.raises(ConfigError, match="llamafactory=a.yaml: is for the command line"):
        check_task(composed("llamafactory=a.yaml"), [])


def test_several_files_are_a_sweep(tmp_path):
    files = []
    for name, rank in (("a", 4), ("b", 8)):
        files.append(str(write_file(tmp_path, {**LEAST, "lora_rank": rank}, f"{name}.yaml")))
    with pytest.raises(ConfigError, match="several files are a sweep, with -m"):
        expand_files([f"llamafactory={','.join(files)}"])
    words = expand_files(["-m", f"llamafactory={','.join(files)}", "seed=0,1"])
    assert words[:2] == ["-m", "seed=0,1"] and words[-1] == "hydra.sweep.dir=outputs/llamafactory"
    assert words[-2].count("method:'lora'") == 2 and "lora_rank:'8'" in words[-2]


if __name__ == "__main__":
    sys.stdout.write(write_table())
