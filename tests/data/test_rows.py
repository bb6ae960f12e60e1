"""From a set to rows: cut, dropped and counted, in splits that share nothing, the same every time, and kept."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, bound
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file, save_file
from sets import SMOLLM2, chatty, new_tokenizer, pairs, plain, trained, write_lines

from tuneoff.config import Columns, ConfigError, Data, Splits, bind, identify_run
from tuneoff.data import load_dataset
from tuneoff.data.loading import divide_into_chunks
from tuneoff.data.row_formats import Example, Format, parse_rows
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.unread import UnreadParts, describe_unread

HUB = ("gsm8k", "metamathqa", "alpaca", "alpaca_gpt4", "commonsense170k", "c4", "wikitext")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("TUNEOFF_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def texts(data_set, tokenizer, split="train"):
    return [text for row in data_set.splits[split] for text in trained(row, tokenizer)]


# ---------------------------------------------------------------- rows
def test_questions_are_the_rows_up_to_their_answers(tmp_path):
    rows = [
        {"split": "train", "prompt": "one", "completion": "two"},
        {"split": "test", "prompt": "long " * 50, "completion": "nowhere"},
        {"split": "test", "prompt": "What is 3 + 4?", "completion": "It is 7. " * 20},
    ]
    data = load_dataset(Data("test", str(write_lines(tmp_path / "rows.jsonl", rows))), plain(), 48)
    (question,) = data.questions("test")
    assert question.answer == "It is 7. " * 20
    assert plain().decode(question.prompt) == "### Instruction:\nWhat is 3 + 4?\n\n### Response:\n"
    assert data.questions("validation") == []


def test_a_question_asks_for_the_last_answer_that_is_there(tmp_path):
    talk = [
        {"role": role, "content": content}
        for role, content in (
            ("user", "a"),
            ("assistant", "first"),
            ("user", "word " * 100),
            ("assistant", "second"),
        )
    ]
    path = write_lines(
        tmp_path / "rows.jsonl", [{"messages": talk, "split": split} for split in ("train", "test")]
    )
    whole, cut = (load_dataset(Data("test", str(path)), chatty(), length) for length in (512, 64))
    assert [question.answer for question in whole.questions("test") + cut.questions("test")] == [
        "second",
        "first",
    ]
    assert chatty().decode(cut.questions("test")[0].prompt).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("tokenizer", [plain, chatty])
def test_an_answer_that_is_marked_so_is_context_only(tmp_path, tokenizer):
    def turn(place: int, content: str, **mark) -> dict:
        return {"role": ("user", "assistant")[place % 2], "content": content, **mark}

    turns = [turn(0, "1+1?"), turn(1, "3", weight=0), turn(2, "No."), turn(3, "2", weight=1)]
    rows = [
        {"messages": turns, "split": "train"},
        {"messages": turns, "split": "test"},
        {"messages": turns[:2], "split": "test"},
    ]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    data = load_dataset(Data("test", str(path)), tokenizer(), 96)
    (answer,) = texts(data, tokenizer())
    assert answer.startswith("2<|") and "3" in data.example.partition("«")[0]
    (question,) = data.questions("test")  # the last answer that is trained
    assert question.answer == "2" and data.dropped["test"] == 1


def test_what_is_not_read_is_told_and_recorded(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", pairs(3, tools=["add"], note=""))
    data = load_dataset(Data("test", str(path)), plain(), 96)
    assert data.summary().endswith("test 0 rows; not read: columns tools (3 rows)")
    assert data.facts()["unread"] == {"columns": {"tools": 3}}
    assert load_dataset(Data("test", str(path)), plain(), 96).facts() == data.facts()


def test_special_tokens_that_somebody_wrote_are_counted(tmp_path):
    end = plain().eos_token
    rows = [*pairs(3), {"prompt": f"say {end}{end}", "completion": f"it is {end}"}]
    data = load_dataset(Data("test", str(write_lines(tmp_path / "a.jsonl", rows))), plain(), 96)
    told = f"written in the text, and read as special tokens: {end} (1 rows)"
    assert data.summary().endswith(told)
    assert data.facts()["unread"] == {"special_tokens": {end: 1}}
    rows = [{"text": f"one{end}two"}, {"text": "three"}, {"text": "<|nothing|>"}]
    texts = load_dataset(Data("test", str(write_lines(tmp_path / "b.jsonl", rows))), plain(), 96)
    assert texts.facts()["unread"] == {"special_tokens": {end: 1}}


def test_what_is_cut_and_what_is_dropped_is_counted(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "word " * 90},
        {"prompt": "word " * 90, "completion": "b"},
    ]
    data = load_dataset(Data("test", str(write_lines(tmp_path / "rows.jsonl", rows))), plain(), 48)
    facts = data.facts()
    assert (facts["rows"]["train"], facts["cut"]["train"], facts["dropped"]["train"]) == (2, 2, 1)
    assert [len(row.ids) for row in data.splits["train"]][1] == 48
    assert "train 2 rows (2 cut to max_length, 1 dropped for no answer within it)" in data.summary()


def test_the_record_says_how_rows_were_made(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", pairs(4))
    facts = load_dataset(Data("test", str(path)), chatty(), 96).facts()
    assert facts["template"] == "chat" and facts["template_text"] == SMOLLM2
    assert facts["format"] == "prompt_completion" and set(facts["columns"]) == {
        "prompt",
        "completion",
    }
    assert (
        load_dataset(Data("test", str(path), template="plain"), chatty(), 96).facts()["template"]
        == "plain"
    )


def test_the_example_shows_what_is_trained(tmp_path):
    data = load_dataset(
        Data("test", str(write_lines(tmp_path / "rows.jsonl", pairs(2)))), chatty(), 96
    )
    assert data.example.endswith("<|im_start|>assistant\n«It is 0.<|im_end|>»\n")


def test_the_example_acts_on_no_terminal(tmp_path):
    rows = [{"prompt": "\x1b[31mred\x07\r\n\ttab", "completion": "\x00\x9b é ✓"}]
    data = load_dataset(Data("test", str(write_lines(tmp_path / "a.jsonl", rows))), plain(), 96)
    assert data.example == (
        "### Instruction:\n\\x1b[31mred\\x07\\r\n\ttab\n\n### Response:\n«\\x00\\x9b é ✓<|end|>»"
    )


def test_no_more_is_tokenised_at_once_than_takes_a_moment():
    """A signal is heard between two chunks."""
    small = [Example([], "a" * 100, "")] * 2500
    large = [Example([], "a" * 400_000, "")] * 3
    talk = [Example([{"role": "user", "content": "a" * 400_000}], "", "")] * 3
    sizes = [[len(chunk) for chunk in divide_into_chunks(rows)] for rows in (small, large, talk)]
    assert sizes == [[1000, 1000, 500], [2, 1], [2, 1]]


def test_text_is_cut_into_blocks_with_or_without_end_tokens(tmp_path):
    path = write_lines(
        tmp_path / "rows.jsonl", [{"text": "one two\n"}, {"text": ""}, {"text": "three"}]
    )
    rows = [
        load_dataset(Data("test", str(path), end_token=end), plain(), 512).splits["train"]
        for end in (True, False)
    ]
    decoded = [plain().decode(row.ids) for (row,) in rows]
    assert decoded == ["one two\n<|end|><|end|>three<|end|>", "one two\nthree"]
    many = load_dataset(Data("test", str(path)), plain(), 4).splits["train"]
    assert [token for row in many for token in row.ids] == list(rows[0][0].ids) and len(
        many[0].ids
    ) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no training rows"),
        ([{"prompt": "word " * 99, "completion": "b"}], "no training rows: no answer of 1 example"),
        (
            [{"messages": [{"role": "user", "content": "a"}]}],
            "no training rows: no row has an answer",
        ),
        (
            [{"prompt": "a", "completion": "b", "split": "test"}],
            "data.splits.train=train: .* no such split; there are te",
        ),
    ],
)
def test_a_set_without_training_rows_is_refused(tmp_path, rows, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(Data("test", str(write_lines(tmp_path / "rows.jsonl", rows))), plain(), 48)


# ---------------------------------------------------------------- splits
def shares(path, **settings):
    data = load_dataset(Data("test", str(path), **settings), plain(), 96)
    return {split: texts(data, plain(), split) for split in data.splits}


def test_a_share_is_exact_disjoint_and_the_same_every_time(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", pairs(200))
    first = shares(path, validation_share=0.1, test_share=0.05)
    assert [len(rows) for rows in first.values()] == [170, 20, 10]
    assert len({text for rows in first.values() for text in rows}) == 200
    assert shares(path, validation_share=0.1, test_share=0.05) == first
    other = shares(path, validation_share=0.1, test_share=0.05, split_seed=1)
    assert len(set(other["validation"]) & set(first["validation"])) < 10
    # A smaller training set is judged by the same rows.
    assert shares(path, validation_share=0.1, test_share=0.05, limit=50, eval_limit=200) == {
        **first,
        "train": first["train"][:50],
    }


def test_a_share_does_not_depend_on_the_order_of_rows(tmp_path):
    rows = pairs(100)
    found = [
        shares(write_lines(tmp_path / name, part), validation_share=0.1)["validation"]
        for name, part in (("a.jsonl", rows), ("b.jsonl", rows[::-1]))
    ]
    assert found[0] == found[1][::-1]


def test_what_asks_the_same_stays_on_one_side(tmp_path):
    rows = [{"prompt": f"Say {n % 30}.", "completion": f"It is {n}."} for n in range(90)]
    found = shares(write_lines(tmp_path / "rows.jsonl", rows), validation_share=0.2, test_share=0.1)
    assert {split: len(items) for split, items in found.items()} == {
        "train": 63,
        "validation": 18,
        "test": 9,
    }
    asked = [{int(text[6:-8]) % 30 for text in items} for items in found.values()]
    assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])


def test_a_conversation_and_its_longer_form_stay_on_one_side(tmp_path):
    def turn(place: int, content: str) -> dict:
        return {"role": ("user", "assistant")[place % 2], "content": content}

    rows = [
        {"messages": [turn(place, f"{n} at {place}") for place in range(length)]}
        for n in range(40)
        for length in (2, 4)
    ]
    found = shares(write_lines(tmp_path / "rows.jsonl", rows), validation_share=0.25)
    numbers = [{text.split()[0] for text in items} for items in found.values()]
    assert len(numbers[0]) == 30 and len(numbers[1]) == 10


def test_a_split_of_that_name_goes_before_a_share(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*pairs(20), *pairs(3, split="validation")])
    assert len(shares(path, validation_share=0.5)["validation"]) == 3
    own = shares(path, validation_share=0.5, splits=Splits(validation=None))
    assert [len(rows) for rows in own.values()] == [10, 10, 0]


def test_a_share_of_nothing_is_refused(tmp_path):
    same = [{"prompt": "Say.", "completion": str(n)} for n in range(9)]
    for rows in (pairs(1), same):
        with pytest.raises(
            ConfigError, match="data.validation_share=0.1: [19] training rows are too few, or ask"
        ):
            shares(write_lines(tmp_path / "rows.jsonl", rows), validation_share=0.1)
    unanswered = [{"messages": [{"role": "user", "content": "a"}]}] * 9
    with pytest.raises(ConfigError, match="^data.path=.*: no training rows: no row has an answer$"):
        shares(write_lines(tmp_path / "rows.jsonl", unanswered), validation_share=0.1)


# ---------------------------------------------------------------- the cache
def test_a_set_is_kept_whole(tmp_path, kept, monkeypatch):
    talk = [
        {"role": role, "content": "word " * 9}
        for role in ("user", "assistant", "user", "assistant")
    ]
    rows = [
        {"messages": talk[:2]},
        {"messages": talk},
        {"messages": talk, "split": "test"},
        {"messages": talk[:1]},
    ]
    data = Data("test", str(write_lines(tmp_path / "rows.jsonl", rows)))
    first = load_dataset(data, chatty(), 128)
    monkeypatch.setattr(
        "tuneoff.data.loading.tokenize_dataset", lambda *_: pytest.fail("tokenised again")
    )
    assert load_dataset(data, chatty(), 128) == first
    assert first.dropped["train"] == 1 and first.questions("test")


def test_anything_that_changes_the_rows_misses_the_cache(tmp_path, kept):
    path = write_lines(tmp_path / "rows.jsonl", pairs(20))
    os.utime(path, (1, 1))
    data = Data("test", str(path))
    load_dataset(data, chatty(), 96)
    changes = [
        lambda: load_dataset(data, chatty(), 95),
        lambda: load_dataset(data, plain(), 96),
        lambda: load_dataset(data, new_tokenizer(SMOLLM2 + " ", "<|im_start|>", "<|im_end|>"), 96),
        lambda: load_dataset(data, new_tokenizer(SMOLLM2, "<|im_start|>", "<|im_end|>", "It"), 96),
        lambda: load_dataset(replace(data, validation_share=0.1), chatty(), 96),
        lambda: load_dataset(
            replace(data, columns=Columns(prompt="completion", completion="prompt")), chatty(), 96
        ),
    ]
    for number, change in enumerate(changes, 2):
        change()
        assert len(list(kept.iterdir())) == number
    path.write_text(
        path.read_text().replace("It is 4", "It is 5")
    )  # of the same size and, by the next line, age
    os.utime(path, (1, 1))
    assert "It is 5.<|im_end|>" in texts(load_dataset(data, chatty(), 96), chatty())
    load_dataset(
        replace(data, name="other", path=str(path.rename(tmp_path / "elsewhere.jsonl"))),
        chatty(),
        96,
    )
    assert len(list(kept.iterdir())) == len(changes) + 2  # a name and a place change nothing


def write_bad_row(path):
    """Two rows that can be read, and below them one that cannot."""
    return write_lines(path, [*pairs(2), {"prompt": "q", "completion": None}])


@pytest.mark.parametrize("tokenizer", [plain, chatty])
def test_what_comes_from_the_cache_names_the_file_that_is_there(tmp_path, kept, tokenizer):
    user = {"role": "user", "content": "a"}
    talks = [[user, {"role": "assistant", "content": "b"}], [user, {"role": "tool"}]]
    rows = [{"messages": talk} for talk in talks]
    for folder in ("old", "new"):
        for path in (
            write_bad_row(tmp_path / folder / "rows.jsonl"),
            write_lines(tmp_path / folder / "set/talks.jsonl", rows).parent,
        ):
            data = Data("test", str(path), on_bad_row="skip")
            (skipped,) = load_dataset(data, tokenizer(), 96).unread["skipped"]
            assert skipped.startswith(
                f"{path}/talks.jsonl: line 2: " if path.is_dir() else f"{path}: line 3: "
            )
    assert len(list(kept.iterdir())) == 2


def test_a_template_refuses_a_row_by_the_place_where_it_is_now(tmp_path, kept):
    tokenizer = new_tokenizer(
        "{% if messages|length > 2 %}{{ raise_exception('long') }}{% endif %}" + SMOLLM2
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    for folder in ("a", "b"):
        rows = [{"messages": turns[:2]}, {"messages": turns}]
        path = write_lines(tmp_path / folder / "rows.jsonl", rows)
        data = Data("test", str(path), on_bad_row="skip")
        (skipped,) = load_dataset(data, tokenizer, 96).unread["skipped"]
        assert f"the chat template refuses {path}: line 2: " in skipped
    assert len(list(kept.iterdir())) == 1


def test_the_cache_reads_no_file_that_its_ending_makes_unreadable(tmp_path, kept):
    path = write_lines(tmp_path / "rows.jsonl", pairs(3))
    load_dataset(Data("test", str(path)), plain(), 96)
    path = path.rename(tmp_path / "rows.jsonl.gz")
    with pytest.raises(ConfigError, match="Not a gzipped file"):
        load_dataset(Data("test", str(path)), plain(), 96)


def test_a_broken_file_in_the_cache_is_made_anew(tmp_path, kept):
    data = Data("test", str(write_lines(tmp_path / "rows.jsonl", pairs(20))))
    first = load_dataset(data, plain(), 96)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert load_dataset(data, plain(), 96) == first
    assert file.stat().st_size > 100


@pytest.mark.parametrize("name", ["train.ids", "train.spans", "test.lengths", "rest", "digest"])
def test_a_file_in_the_cache_that_was_changed_is_made_anew(tmp_path, kept, name, caplog):
    """One number in a file that is whole otherwise."""
    rows = [*pairs(20, split="train"), *pairs(5, split="test")]
    data = Data("test", str(write_lines(tmp_path / "rows.jsonl", rows)))
    first = load_dataset(data, plain(), 96)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    tensors = load_file(file)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[3] += 1
    save_file(tensors, file)
    assert load_dataset(data, plain(), 96) == first
    assert f"{file} is damaged and made anew" in caplog.text and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNEOFF_CACHE", str(tmp_path / "file" / "below"))
    data = load_dataset(
        Data("test", str(write_lines(tmp_path / "rows.jsonl", pairs(20)))), plain(), 96
    )
    assert len(data.splits["train"]) == 20 and "not kept" in caplog.text


def fingerprint_of(path: str) -> str:
    return load_dataset(Data("test", path), plain(), 96).fingerprint


def test_two_processes_at_once_get_the_same(tmp_path, kept):
    path = str(write_lines(tmp_path / "rows.jsonl", pairs(3000)))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = set(pool.map(fingerprint_of, [path] * 6))
    assert found == {fingerprint_of(path)} and len(list(kept.iterdir())) == 1


# ---------------------------------------------------------------- the choices of data=
@pytest.mark.parametrize(
    "name",
    # That of several sets composes only with some, as test_joining.py has it.
    sorted({path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")} - {"sets"}),
)
def test_every_choice_composes(tmp_path, name):
    extra = (
        [f"data.path={write_lines(tmp_path / 'rows.jsonl', pairs(1))}"] if name == "json" else []
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data = bind(
            compose("config", overrides=["model.pretrained=false", f"data={name}", *extra])
        )[0].data
    # A set of one's own is called by its file.
    assert data.name == ("rows" if name == "json" else name)
    assert data.on_hub == (name in HUB)


def test_gsm8k_is_read_as_its_yaml_says(tmp_path):
    """A copy of the set with its two subsets, through the whole of `load`."""
    import datasets

    for split, count in (("train", 40), ("test", 5)):
        rows = [{"question": f"{split} {n}?", "answer": f"So.\n#### {n}"} for n in range(count)]
        datasets.Dataset.from_list(rows).to_parquet(
            tmp_path / "set" / "main" / f"{split}-0.parquet"
        )
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
        "  - {split: test, path: main/test-*}\n- config_name: socratic\n  data_files: main/test-*\n---\n"
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=["model.pretrained=false", "data=gsm8k", f"data.path={tmp_path / 'set'}"],
        )
    data = load_dataset(bind(cfg)[0].data, plain(), 96)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 38,
        "validation": 2,
        "test": 5,
    }
    assert data.questions("test")[3].answer == "So.\n#### 3"


@pytest.mark.parametrize("path", ["rows", "rows/train.jsonl"])
def test_gsm8ks_yaml_reads_a_folder_or_a_file_of_ones_own(tmp_path, path):
    """Such rows have no subset; the columns are those of the YAML."""
    (tmp_path / "rows").mkdir()
    rows = [{"question": f"What is {n}?", "answer": f"So.\n#### {n}"} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows" / "train.jsonl").write_text(lines)
    data, _, config = bound("data=gsm8k", f"data.path={tmp_path / path}")
    assert data.data.subset is None and config["data"]["subset"] is None
    dataset = load_dataset(data.data, plain(), 96)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {
        "train": 38,
        "validation": 2,
        "test": 0,
    }
    assert dataset.questions("validation")[0].answer.startswith("So.\n#### ")


def test_c4_of_ones_own_is_not_streamed(tmp_path):
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "words"}) + "\n")
    local = bound("data=c4", f"data.path={tmp_path / 'text.jsonl'}", "data.validation_share=0.1")
    assert (local[0].data.subset, local[0].data.streaming) == (None, False)
    hub = bound("data=c4")
    assert (hub[0].data.subset, hub[0].data.streaming) == ("en", True)


def test_the_identity_of_a_folder_is_that_of_its_files(tmp_path):
    def name() -> str:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return identify_run(
                compose(
                    "config",
                    overrides=[
                        "model.pretrained=false",
                        "data=json",
                        f"data.path={tmp_path / 'set'}",
                    ],
                )
            )

    write_lines(tmp_path / "set" / "a.jsonl", pairs(3))
    names = [name()]
    Path(tmp_path / "set" / "notes.md").write_text("not data")
    names.append(name())
    assert names[0] == names[1]
    write_lines(tmp_path / "set" / "deep" / "b.jsonl", pairs(3))
    names.append(name())
    (tmp_path / "set" / "deep" / "b.jsonl").rename(tmp_path / "set" / "deep" / "test.jsonl")
    names.append(name())
    write_lines(tmp_path / "set" / "a.jsonl", pairs(4))
    names.append(name())
    assert len(set(names)) == 4


def test_the_embedded_set_is_what_it_was():
    """Rows, order and labels of the default, to the last token: earlier records stay comparable."""
    data = load_dataset(Data("docstrings", "tuneoff:docstrings"), plain(), 256)
    assert data.fingerprint == "f85627088e7b814c"
    assert json.loads(json.dumps(data.facts()))["cut"] == {
        "train": 122,
        "validation": 16,
        "test": 21,
    }


def test_a_bad_row_is_refused_or_skipped_counted_and_listed(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "tool", "content": "42"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
    ]
    columns = Format("messages", {"messages": "messages"})
    source = [SourceRow(row, f"rows.jsonl: line {number}") for number, row in enumerate(rows, 1)]
    with pytest.raises(ConfigError, match="line 2: messages has a turn of role 'tool'"):
        list(parse_rows(columns, source, UnreadParts()))
    unread = UnreadParts(skips_bad_rows=True)
    examples = list(parse_rows(columns, source, unread))
    assert [example.location for example in examples] == [source[0].location, source[2].location]
    facts = unread.facts()
    assert facts["skipped_rows"] == 1 and "line 2: messages has a turn" in facts["skipped"][0]
    assert describe_unread(facts).startswith("skipped rows: 1, as rows.jsonl: line 2")
