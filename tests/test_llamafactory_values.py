"""YAMLs of LLaMA-Factory with odd values: texts stay what they are, and what cannot be is refused in a line of its own."""

import json

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_llamafactory import LEAST, find_line, read, write_file  # noqa: F401 (read is a fixture)

from tuneoff.cli.llamafactory import keys
from tuneoff.cli.llamafactory.command import describe, list_words, write_yaml
from tuneoff.cli.llamafactory.expansion import write_grid
from tuneoff.cli.llamafactory.launchers import find_stage
from tuneoff.cli.llamafactory.translate import translate
from tuneoff.config import ConfigError

TEXTS = (
    "You are: helpful: always",
    "[Role] helper",
    "Note: be brief",
    "# hi",
    "Hello ${x}, ${",
    "\\${x} and \\\\${y}",
    "null",
    "true",
    "1_0",
    "007",
    "inf",
    "été",
    "It's 'so' \\' \\",
    "two\nlines\n",
    "{a: 1}, b=c",
)


# ---------------------------------------------------------------- texts
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_same_in_the_command_in_the_yaml_and_in_a_sweep(read, tmp_path, text):  # noqa: F811
    words = read(default_system=text).words
    parser = OverridesParser.create()
    (typed,) = [word for word in list_words(words) if word.startswith("data.default_system=")]
    value = parser.parse_override(typed).value()
    assert OmegaConf.create({"text": value}).text == text
    file = tmp_path / "ours.yaml"
    file.write_text(write_yaml(words), "utf-8")
    assert OmegaConf.load(file).data.default_system == text
    (grid,) = parser.parse_override(f"grids=[{write_grid(words)}]").value()
    # Hydra reads a sweeper's options twice; then a job's word comes, which is read as one that is typed.
    for _ in range(2):
        grid = OmegaConf.to_container(OmegaConf.create(grid), resolve=True)
    job = parser.parse_override(f"key={grid['data.default_system']}").value()
    assert OmegaConf.create({"text": job}).text == text


def test_names_and_folders_are_texts_too(read, tmp_path):  # noqa: F811
    entry = {"hf_hub_url": "owner/set", "subset": "1e5", "columns": {"prompt": "null"}}
    words = read({"null": entry}, dataset="null", output_dir="a ${b}", model_revision="123").words
    file = tmp_path / "ours.yaml"
    file.write_text(write_yaml(words), "utf-8")
    ours = OmegaConf.load(file)
    assert (ours.data.subset, ours.data.columns.prompt, ours.data.name) == ("1e5", "null", "null")
    assert ours.hydra.run.dir == "a ${b}" and ours.model.revision == "123"
    typed = list_words(words)
    assert "data.subset='1e5'" in typed and "data.columns.prompt='null'" in typed


def test_names_of_modules_with_signs_of_hydras_are_quoted_one_by_one(read):  # noqa: F811
    words = read(lora_target=".*(q|v)_proj, k_proj").words
    (typed,) = [word for word in list_words(words) if word.startswith("lora_target=")]
    assert OverridesParser.create().parse_override(typed).value() == [".*(q|v)_proj", "k_proj"]
    assert yaml.safe_load(write_yaml(words))["lora_target"] == [".*(q|v)_proj", "k_proj"]
    describe(read(lora_target="[q_proj"))


def test_what_is_quoted_in_the_file_is_no_number(tmp_path):
    file = write_file(tmp_path, LEAST)
    file.write_text(file.read_text() + "learning_rate: 1e-4\ndefault_system: '1e5'\n")
    words = translate(file).words
    assert words["lr"] == "0.0001" and words["data.default_system"] == "1e5"
    ours = tmp_path / "ours.yaml"
    ours.write_text(write_yaml(words))
    assert OmegaConf.load(ours).data.default_system == "1e5"
    file.write_text(file.read_text() + "run_name: 2024-13-45\n")
    with pytest.raises(ConfigError, match="is no YAML"):
        translate(file)


# ---------------------------------------------------------------- what a value cannot be
@pytest.mark.parametrize(
    ("values", "key", "said"),
    [
        ({"learning_rate": 0, "lr_scheduler_type": "polynomial"}, "learning_rate", "above 0"),
        ({"learning_rate": 0}, "learning_rate", "above 0"),
        ({"learning_rate": True}, "learning_rate", "must be a number"),
        ({"max_steps": float("inf")}, "max_steps", "must be a number"),
        ({"max_steps": 2.5}, "max_steps", "must be a whole number"),
        ({"max_samples": float("inf")}, "max_samples", "must be a number"),
        ({"max_samples": 0}, "max_samples", "at least 1"),
        ({"num_train_epochs": 0}, "num_train_epochs", "above 0"),
        ({"val_size": float("nan")}, "val_size", "must be a number"),
        ({"val_size": -1}, "val_size", "at least 0"),
        ({"val_size": 2.5}, "val_size", "must be a whole number"),
        ({"warmup_ratio": 1.5}, "warmup_ratio", "in [0, 1)"),
        ({"warmup_steps": -1}, "warmup_steps", "at least 0"),
        ({"warmup_steps": 10**400}, "warmup_steps", "must be a number"),
        ({"cutoff_len": float("nan")}, "cutoff_len", "must be a number"),
        ({"per_device_train_batch_size": 1.5}, "per_device_train_batch_size", "whole number"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"max_grad_norm": "abc"}, "max_grad_norm", "must be a number"),
        ({"disable_shuffling": "maybe"}, "disable_shuffling", "true or false"),
        ({"train_sampling_strategy": "batch"}, "train_sampling_strategy", "there are random"),
        ({"train_sampling_strategy": []}, "train_sampling_strategy", "there are random"),
        ({"deepspeed": {"zero_optimization": [2]}}, "deepspeed", "no stage of ZeRO"),
        ({"finetuning_type": "loraa"}, "finetuning_type", "no method here"),
        ({"default_system": 5}, "default_system", "must be a text"),
        ({"model_name_or_path": ""}, "model_name_or_path", "must be given"),
        ({"dataset_dir": 5}, "dataset", "needs a folder's name"),
        ({"eval_strategy": "often"}, "eval_strategy", "there are no, steps and epoch"),
        ({"save_steps": 0.1}, "save_steps", "needs max_steps"),
        ({"eval_strategy": "steps", "eval_steps": 0.2}, "eval_steps", "needs max_steps"),
        ({"eval_strategy": "steps", "logging_steps": 0.2}, "logging_steps", "needs max_steps"),
        (
            {
                "eval_strategy": "steps",
                "eval_steps": 5,
                "load_best_model_at_end": True,
                "early_stopping_steps": float("inf"),
            },
            "early_stopping_steps",
            "must be a number",
        ),
        (
            {
                "lr_scheduler_type": "cosine_with_restarts",
                "lr_scheduler_kwargs": {"num_cycles": 2.5},
            },
            "lr_scheduler_kwargs",
            "must be a whole number",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1}},
            "lr_scheduler_kwargs",
            "must have min_lr in [0, learning_rate)",
        ),
        ({"lr_scheduler_kwargs": {1: 2.0}}, "lr_scheduler_kwargs", "has 1, which no schedule"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 100},
            "warmup_steps",
            "needs max_steps under warmup_stable_decay",
        ),
        (
            {"dataset": "sums,identity", "interleave_probs": "0.9,abc"},
            "interleave_probs",
            "must be 2 numbers above 0",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused(read, values, key, said):  # noqa: F811
    result = read(**values)
    line = find_line(result, key)
    assert line.verdict == "refused" and said in line.text
    describe(result)


@pytest.mark.parametrize(
    "value", [None, "", 0, -1, True, float("nan"), float("inf"), "abc", [], [1], {"a": None}]
)
def test_no_value_of_any_key_ends_in_an_error(read, value):  # noqa: F811
    several = ("dataset", "template", "stage", "optim", "deepspeed", "fsdp", "report_to")
    names = [*keys.TAKEN, *several, "max_steps", "save_steps", "eval_steps", "dataset_dir"]
    for name in names:
        result = read(**{name: value})
        describe(result)
        said = [line.key for line in result.lines]
        assert name in said and len(said) == len(set(said)), name


@pytest.mark.parametrize("entry", [{}, {"file_name": "a", "columns": ["b"]}, {"file_name": None}])
def test_an_entry_of_a_set_that_says_nothing_is_refused(read, entry):  # noqa: F811
    assert find_line(read({"mine": entry}, dataset="mine"), "dataset").verdict == "refused"


# ---------------------------------------------------------------- what a value means
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"learning_rate": None, "seed": None, "cutoff_len": None},
            {"lr": "5e-05", "seed": "42", "max_length": "2048"},
        ),
        (
            {"finetuning_type": None, "disable_gradient_checkpointing": None},
            {"method": "lora", "gradient_checkpointing": "true"},
        ),
        (
            {"finetuning_type": "full", "use_galore": True, "galore_scale": None},
            {"galore_scale": "2.0"},
        ),
        ({"max_grad_norm": None}, {"max_grad_norm": "null"}),
        ({"max_grad_norm": 0}, {"max_grad_norm": "null"}),
        ({"disable_shuffling": "false"}, {"shuffle": "true"}),
        ({"per_device_train_batch_size": 2.0}, {"batch_size": "2"}),
        ({"quantization_bit": 4.0}, {"quantization": "4bit"}),
        ({"save_steps": 0}, {"save_every": None}),
        (
            {"max_steps": 25, "save_steps": 0.1, "eval_strategy": "steps", "eval_steps": 0.2},
            {"save_every": "3", "eval_every": "5"},
        ),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 100, "max_steps": 300},
            {"decay_ratio": "0.444444", "warmup_steps": "100"},
        ),
        (
            {"val_size": 0.1},
            {"data.validation_share": "0.1", "data.splits.validation": "null"},
        ),
        ({"val_size": 5}, {"data.validation_rows": "5", "data.splits.validation": "null"}),
    ],
)
def test_values_become_ours(read, values, words):  # noqa: F811
    result = read(**values)
    assert not result.refused, [line.describe() for line in result.refused]
    assert {key: result.words.get(key) for key in words} == words


def test_evaluations_after_each_pass_are_warned_of(read):  # noqa: F811
    result = read(eval_strategy="epoch", val_size=0.1)
    assert "eval_every" not in result.words
    assert "eval_strategy: epoch evaluates after each pass there" in "\n".join(result.warnings)
    assert "eval_every says it" not in find_line(result, "eval_strategy").text
    assert "epoch" not in "\n".join(read(eval_strategy="no").warnings)


def test_sets_whose_names_become_one_stay_two(read):  # noqa: F811
    entries = {name: {"file_name": f"{name}.json"} for name in ("a-b", "a_b", "a.b")}
    words = read(entries, dataset="a-b,a_b", eval_dataset="a.b").words
    assert words["data"] == "[a_b:json,a_b_2:json,a_b_3:json]"
    files = [words[f"data.sets.{name}.path"].rpartition("/")[2] for name in ("a_b", "a_b_2")]
    assert files == ["a-b.json", "a_b.json"]
    assert words["data.sets.a_b_3.only_for"] == "validation"


def test_an_empty_part_of_deepspeed_is_no_stage(tmp_path):
    assert find_stage({"zero_optimization": None}) == "0"
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert find_stage(str(file)) == "3"
