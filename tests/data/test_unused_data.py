"""Settings of data that others of them switch off, or that change nothing for the rows, are refused."""

import pytest
from sets import pairs, plain, write_lines

from tuneoff.config import ConfigError, Data
from tuneoff.config.data import SingleSet
from tuneoff.config.unused import refuse_unused_data
from tuneoff.data import load_dataset

SHARE = {"validation_share": 0.1}


@pytest.mark.parametrize("written", ["validation_share", "validation_share validation_rows"])
def test_a_written_share_is_refused_where_a_number_of_rows_takes_its_place(written):
    keys = [f"data.{key}" for key in written.split()]
    for share in (0, 0.3):
        data = Data("a", "a.jsonl", validation_rows=5, validation_share=share)
        with pytest.raises(ConfigError, match=r"^data.validation_share=0.*data.validation_rows is"):
            refuse_unused_data("data", data, keys)
    # A set's YAML has a share as its default.
    refuse_unused_data("data", data, ["data.validation_rows"])


def test_written_epochs_are_refused_where_steps_take_their_place():
    data = Data("a", "a.jsonl", default_steps=9)
    with pytest.raises(ConfigError, match=r"^data.default_epochs=3.0: must be left out where"):
        refuse_unused_data("data", data, ["data.default_epochs"])
    refuse_unused_data("data", data, [])


@pytest.mark.parametrize(("seed", "written"), [(3, []), (0, ["split_seed"])])
def test_a_seed_of_shares_that_nobody_draws_is_refused(seed, written):
    for prefix in ("data", "forgetting.data", "data.sets.a"):
        keys = [f"{prefix}.{key}" for key in written]
        top = prefix.removesuffix(".sets.a")
        for drawing in ({}, {"validation_share": 0.0}, SHARE, {"test_share": 0.1}):
            settings = SingleSet("a", "a.jsonl", split_seed=seed, **drawing)
            data = Data(**vars(settings))
            if prefix != top:
                data = Data(path="", sets={"a": settings})
            if any(drawing.values()):
                refuse_unused_data(top, data, keys)
                continue
            with pytest.raises(ConfigError, match=f"^{prefix}.split_seed={seed}: needs "):
                refuse_unused_data(top, data, keys)


@pytest.mark.parametrize(("seed", "written"), [(3, []), (0, ["data.mixing_seed"])])
def test_a_seed_of_a_mixture_is_refused_where_every_row_is_taken_once(seed, written):
    sets = {name: SingleSet(name, f"{name}.jsonl") for name in ("a", "b")}
    data = Data(path="", sets=sets, mixing_seed=seed)
    with pytest.raises(ConfigError, match=rf"^data.mixing_seed={seed}: needs data.mixing=inter"):
        refuse_unused_data("data", data, written)
    data.mixing = "interleave_over"
    refuse_unused_data("data", data, written)


MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b"},
        {"messages": MESSAGES},
        {"text": "a b"},
    ],
)
def test_a_break_before_an_input_is_refused_where_no_row_has_one(tmp_path, row):
    path = write_lines(tmp_path / "rows.jsonl", [row])
    with pytest.raises(ConfigError, match="^data.input_break=line: is for rows with an input"):
        load_dataset(Data("test", str(path), input_break="line"), plain(), 64)


def test_rows_that_judge_and_their_seed_are_refused_where_the_set_has_its_own(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*pairs(9), *pairs(3, split="validation")])
    with pytest.raises(ConfigError, match=r"^data.validation_rows=4: the set has .*=null leaves"):
        load_dataset(Data("test", str(path), validation_rows=4), plain(), 64)
    with pytest.raises(ConfigError, match="^data.split_seed=3: fixes which training rows judge"):
        load_dataset(Data("test", str(path), split_seed=3, **SHARE), plain(), 64)
