"""Several sets: joined rows that know their set, mixed by weight the same every time, in splits that stay apart."""

from pathlib import Path

import pytest
from helpers import composed
from sets import plain, trained, write_lines

from tuneoff.config import ConfigError, Data, SingleSet
from tuneoff.config.set_lists import refuse_listed_choices, write_as_choices
from tuneoff.data import load_dataset
from tuneoff.data.joining import count_rows_to_draw
from tuneoff.data.unread import add_unread


def write_set(folder: Path, name: str, *splits: tuple[str, range]) -> str:
    """A file of rows whose answers name the set."""
    rows = []
    for split, numbers in splits:
        for number in numbers:
            prompt = f"What is {number}?"
            rows.append({"split": split, "prompt": prompt, "completion": f"{name} {number}"})
    return str(write_lines(folder / f"{name}.jsonl", rows))


def join(folder: Path, **settings) -> Data:
    """Two sets: `one` of 12 rows and `two` of 4, which are judged by others."""
    weights = settings.pop("weights", (1.0, 1.0))
    one = write_set(folder, "one", ("train", range(12)), ("validation", range(20, 22)))
    two = write_set(folder, "two", ("train", range(30, 34)), ("validation", range(40, 43)))
    sets = {
        "one": SingleSet(path=one, weight=weights[0]),
        "two": SingleSet(path=two, weight=weights[1]),
    }
    return Data(name="both", path="", sets=sets, **settings)


def load(data: Data):
    data.check()
    return load_dataset(data, plain(), 96)


def answers(data_set, split: str = "train") -> list[str]:
    return [trained(row, plain())[0].removesuffix("<|end|>") for row in data_set.splits[split]]


def test_concatenated_sets_have_every_row_once_and_each_row_knows_its_set(tmp_path):
    data_set = load(join(tmp_path))
    expected = [*(f"one {n}" for n in range(12)), *(f"two {n}" for n in range(30, 34))]
    assert answers(data_set) == expected
    assert data_set.list_set_names("train") == ["one"] * 12 + ["two"] * 4
    assert list(map(len, data_set.rows_by_set("validation").values())) == [2, 3]
    questions = data_set.questions("validation")
    assert [(question.set_name, question.answer) for question in questions][1:3] == [
        ("one", "one 21"),
        ("two", "two 40"),
    ]
    sets = data_set.facts()["sets"]
    assert sets["two"]["joined_rows"] == {"train": 4, "validation": 3, "test": 0}
    assert "train 16 rows (one 12, two 4)" in data_set.summary()


def test_interleaved_sets_give_shares_by_weight_in_an_order_of_one_seed(tmp_path):
    under = load(join(tmp_path, mixing="interleave_under", weights=(1.0, 1.0)))
    drawn = answers(under)
    assert len(set(drawn)) == 8 and under.list_set_names("train").count("two") == 4
    assert drawn != sorted(drawn), "set after set"
    again = load(join(tmp_path, mixing="interleave_under"))
    assert (answers(again), again.fingerprint) == (drawn, under.fingerprint)
    other_seed = load(join(tmp_path, mixing="interleave_under", mixing_seed=1))
    assert answers(other_seed) != drawn
    over = load(join(tmp_path, mixing="interleave_over", weights=(1.0, 0.5)))
    assert over.list_set_names("train").count("one") == 12
    # Each of the four once, and two of them again.
    counts = [answers(over).count(f"two {number}") for number in range(30, 34)]
    assert sorted(counts) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("mixing", "expected"), [("interleave_under", [8, 4]), ("interleave_over", [12, 6])]
)
def test_the_set_that_is_used_up_first_or_last_ends_an_epoch(mixing, expected):
    assert count_rows_to_draw([12, 4], [2.0, 1.0], mixing) == expected


def test_the_fingerprint_covers_every_set_and_weight(tmp_path):
    fingerprints = set()
    for settings in (
        {},
        {"mixing": "interleave_over"},
        {"mixing": "interleave_over", "weights": (1.0, 2.0)},
        {"mixing": "interleave_over", "weights": (2.0, 4.0)},
    ):
        fingerprints.add(load(join(tmp_path, **settings)).fingerprint)
    assert len(fingerprints) == 4


def test_no_prompt_is_trained_on_that_another_set_is_judged_by(tmp_path):
    one = write_set(tmp_path, "one", ("train", range(8)), ("validation", range(20, 22)))
    two = write_set(
        tmp_path,
        "two",
        ("train", range(18, 24)),
        ("validation", range(6, 8)),
        ("test", range(20, 21)),
    )
    sets = {"one": SingleSet(path=one), "two": SingleSet(path=two)}
    # From the cache, too.
    for _ in range(2):
        data_set = load(Data(name="both", path="", sets=sets))
        by_split = {}
        for split in data_set.splits:
            by_split[split] = {text.partition(" ")[2] for text in answers(data_set, split)}
        assert not by_split["train"] & (by_split["validation"] | by_split["test"])
        assert not by_split["validation"] & by_split["test"]
        assert data_set.facts()["kept_apart"] == {"train": 4, "validation": 1, "test": 0}


def test_a_set_that_is_left_without_a_row_is_refused_by_its_name(tmp_path):
    one = write_set(tmp_path, "one", ("train", range(3)), ("validation", range(20, 22)))
    two = write_set(tmp_path, "two", ("train", range(9)), ("validation", range(3)))
    sets = {"one": SingleSet(path=one), "two": SingleSet(path=two)}
    with pytest.raises(ConfigError, match=r"data\.sets\.one\.path=.* another set is judged by"):
        load(Data(name="both", path="", sets=sets))
    # What a set refuses of itself names the set, too.
    sets["two"].splits.train = "nowhere"
    with pytest.raises(ConfigError, match=r"data\.sets\.two\.splits\.train=nowhere"):
        load(Data(name="both", path="", sets=sets))


def test_a_weight_that_gives_no_row_is_refused(tmp_path):
    data = join(tmp_path, mixing="interleave_under", weights=(1000.0, 1.0))
    with pytest.raises(ConfigError, match=r"data\.sets\.two\.weight"):
        load(data)


def test_lists_become_choices_on_a_command_line_and_are_refused_in_a_defaults_list():
    words = ["data=[a, b],c", "forgetting.data=['d',e]", "lora_target=[q_proj,v_proj]", "-m"]
    files = write_as_choices(["data=[talks:json, sums:json]"])
    assert files == ["data=talks:json+sums:json"]
    assert list(composed(*files).data.sets) == ["talks", "sums"]
    assert write_as_choices(words) == [
        "data=a+b,c",
        "forgetting.data=d+e",
        "lora_target=[q_proj,v_proj]",
        "-m",
    ]
    with pytest.raises(ConfigError, match=r"data: a\+b in a defaults list"):
        refuse_listed_choices(["config", {"override data": ["a", "b"]}])


@pytest.mark.parametrize("mixing", ["concatenate", "interleave_under", "interleave_over"])
def test_a_set_that_only_judges_trains_no_row(tmp_path, mixing):
    data = join(tmp_path, mixing=mixing)
    data.sets["two"].only_for = "validation"
    data_set = load(data)
    assert answers(data_set) and all(answer.startswith("one") for answer in answers(data_set))
    own = ["one 20", "one 21"]
    # Its training split judges, and its own validation rows are left alone.
    assert answers(data_set, "validation") == [*own, *(f"two {n}" for n in range(30, 34))]
    assert data_set.recipe["sets"]["two"]["joined_rows"]["train"] == 0


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_set_that_only_judges_does_so_whatever_share_its_yaml_has(tmp_path, split):
    data = join(tmp_path)
    data.sets["two"].only_for = split
    whole = load(data)
    data.sets["two"].validation_share = 0.5
    data.sets["two"].validation_rows = 2
    data.sets["two"].test_share = 0.1
    assert load(data).fingerprint == whole.fingerprint


def test_what_is_not_read_of_any_set_is_told_and_recorded(tmp_path):
    data = join(tmp_path)
    one = [{"prompt": f"a{n}", "completion": "b", "note": "n"} for n in range(3)]
    bad = [{"prompt": "c", "completion": None} for _ in range(2)]
    two = [{"prompt": f"d{n}", "completion": "", "note": "n", "tag": "t"} for n in range(4)]
    data.sets["one"].path = str(write_lines(tmp_path / "a.jsonl", [*one, *bad]))
    data.sets["one"].on_bad_row = "skip"
    data.sets["two"].path = str(write_lines(tmp_path / "b.jsonl", two))
    data_set = load(data)
    unread = data_set.facts()["unread"]
    parts = [facts["unread"] for facts in data_set.facts()["sets"].values()]
    assert unread["columns"] == {"note": 7, "tag": 4} and unread["empty_answers"] == 4
    assert unread["skipped_rows"] == 2 and unread["skipped"] == parts[0]["skipped"]
    assert (
        "not read: columns note (7 rows), tag (4 rows); skipped rows: 2, as " in data_set.summary()
    )
    assert "unread" not in load(join(tmp_path)).facts()
    # Of more rows than a set lists the number is the sum of all.
    many = [{**part, "skipped_rows": 500} for part in parts if "skipped" in part]
    assert add_unread(many * 2)["skipped_rows"] == 1000


def test_what_a_judging_set_asks_is_trained_nowhere(tmp_path):
    one = write_set(tmp_path, "one", ("train", range(12)))
    judge = write_set(tmp_path, "judge", ("train", range(5)))
    sets = {"one": SingleSet(path=one), "judge": SingleSet(path=judge, only_for="validation")}
    data_set = load(Data(name="both", path="", sets=sets))
    assert answers(data_set) == [f"one {n}" for n in range(5, 12)]
    assert data_set.recipe["kept_apart"]["train"] == 5


def test_sets_that_only_judge_train_nothing_and_are_refused(tmp_path):
    one = write_set(tmp_path, "one", ("train", range(12)))
    sets = {"one": SingleSet(path=one, only_for="validation")}
    with pytest.raises(ConfigError, match="to train on"):
        load(Data(name="both", path="", sets=sets))
    with pytest.raises(ConfigError, match="is for several sets"):
        load(Data(name="one", path=one, only_for="test"))


def test_a_default_system_stands_where_the_rows_have_none(tmp_path):
    rows = [
        {"prompt": "What is 1?", "completion": "1"},
        {"system": "Be long.", "prompt": "What is 2?", "completion": "2"},
    ]
    path = str(write_lines(tmp_path / "rows.jsonl", rows))
    data_set = load(Data(name="rows", path=path, default_system="Be brief."))
    texts = [plain().decode(row.ids) for row in data_set.splits["train"]]
    assert "Be brief." in texts[0] and "What is 1?" in texts[0]
    assert "Be long." in texts[1] and "Be brief." not in texts[1]
    without = load(Data(name="rows", path=path))
    assert data_set.asked["train"] == without.asked["train"]
    assert data_set.fingerprint != without.fingerprint
    assert data_set.recipe["default_system"] == "Be brief."
