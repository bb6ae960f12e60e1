"""Answers are found as GSM8K's and lm-eval's own code finds them."""

import time

import pytest

from tuneoff.config.extractors import (
    SEARCH_SECONDS,
    extract_answer,
    is_extractor,
    normalize_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("####-5.", "-5"),
        ("#### $1,000.50", "1000.50"),
        ("#### -$3", "-3"),
        ("#### 18.0", "18.0"),
        ("#### 12%", "12"),
        ("#### 7\n\nQuestion: …\n#### 9", "7"),
        ("#### 1,2", "1,2"),
        ("The answer is 7.", None),
        ("#### seven", None),
        ("", None),
    ],
)
def test_gsm8k(text, answer):
    assert extract_answer(text, "gsm8k") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris.", "Paris."),
        (" Paris\n", "Paris"),
        ("$5.", "5"),
        ("1,5", "1,5"),
        ("two\nlines", "two\nlines"),
        ("12,34,567", "1234567"),
        ("", ""),
    ],
)
def test_a_whole_answer(text, answer):
    assert extract_answer(text, "whole") == answer


def test_an_expression_gives_its_group():
    expression = r"answer is (\S+)(?: indeed)?"
    assert extract_answer("The answer is 1,000. The answer is 2.", expression) == "1000"
    assert extract_answer("None", expression) is None
    assert extract_answer("so: ", r"so:(?: (\d))?") is None  # the group had no part in the match


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("gsm8k", True),
        ("whole", True),
        (r"is (\S+)", True),
        (r"(?:is|=) (\d)", True),
        ("gsm8", False),
        ("(", False),
        ("(a)(b)", False),
        ("", False),
    ],
)
def test_what_is_an_extractor(name, fits):
    assert is_extractor(name) == fits


@pytest.mark.parametrize(
    "text", ["1" * 32_000, "1," * 16_000 + "x", "1" * 32_000 + "x", "," * 32_000]
)
def test_a_number_of_32000_digits_takes_no_time(text):
    started = time.process_time()
    assert normalize_answer(text) in (text, text.rstrip(","))
    assert extract_answer(f"#### {text}", "gsm8k") is not None
    assert time.process_time() - started < 1


def test_an_expression_that_backtracks_without_end_is_stopped_and_told_once(caplog):
    started = time.process_time()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            extract_answer("x" * 5_000, r"(x+x+)+y")
    assert time.process_time() - started < 2 * SEARCH_SECONDS + 2
    assert caplog.text.count("exact_match=(x+x+)+y takes longer than 1 s on a text") == 1


def test_an_expression_that_cannot_be_compiled_is_no_extractor():
    assert not is_extractor("(" * 5_000 + "a" + ")" * 5_000)
