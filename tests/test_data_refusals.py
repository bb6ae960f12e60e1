"""Settings of data on a command line: what a set's YAML has beside them is no contradiction, and what does nothing is one."""

import re

import pytest
from helpers import composed

from tuneoff.config import ConfigError, bind

SEVERAL = "data=gsm8k+alpaca"
JUDGE = "data.sets.alpaca.only_for=validation"
OWN = "data=docstrings"


def bound_as_written(*words: str):
    """The experiment of a command line, which knows what was written."""
    written = [word.partition("=")[0] for word in words]
    experiment, _ = bind(composed(*words), written)
    return experiment


@pytest.mark.parametrize(
    "words",
    [
        [SEVERAL, JUDGE],
        [SEVERAL, "data.sets.gsm8k.only_for=test"],
        [SEVERAL, JUDGE, "data.sets.alpaca.validation_share=null"],
        [SEVERAL, JUDGE, "data.sets.alpaca.validation_share=0"],
        ["data=gsm8k", "data.validation_share=null", "data.validation_rows=5"],
        ["data=gsm8k", "data.validation_share=0.2"],
        [OWN, "data.validation_share=0"],
        [OWN, "data.validation_share=0.1", "data.splits.validation=null"],
        [OWN, "data.test_share=0.1", "data.splits.test=null"],
        ["model=tiny", "model.config=null"],
    ],
)
def test_what_a_yaml_has_and_what_null_takes_back_is_no_contradiction(words):
    bound_as_written(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [SEVERAL, JUDGE, "data.sets.alpaca.validation_share=0.1"],
            f"data.sets.alpaca.validation_share=0.1: must be left out where {JUDGE}, all of",
        ),
        (
            [SEVERAL, JUDGE, "data.sets.alpaca.validation_rows=5"],
            f"data.sets.alpaca.validation_rows=5: must be left out where {JUDGE}, all of",
        ),
        (
            [SEVERAL, JUDGE, "data.sets.alpaca.test_share=0.1"],
            f"data.sets.alpaca.test_share=0.1: must be left out where {JUDGE}, all of",
        ),
        (
            [SEVERAL, JUDGE, "data.sets.alpaca.split_seed=3"],
            "data.sets.alpaca.split_seed=3: needs ",
        ),
        (
            [SEVERAL, "data.sets.alpaca.name=other"],
            "data.sets.alpaca.name=other: must be left out: among several sets",
        ),
        (
            [OWN, "data.validation_share=0.1"],
            "data.validation_share=0.1: the set has validation rows itself; data.splits.validation=null",
        ),
        ([OWN, "data.validation_rows=5"], "data.validation_rows=5: the set has validation rows"),
        ([OWN, "data.test_share=0.1"], "data.test_share=0.1: the set has test rows itself"),
        (
            ["forgetting.data=stdlib", "forgetting.data.validation_share=0.1"],
            "forgetting.data.validation_share=0.1: the set has validation rows itself",
        ),
        (
            ["data=docstrings+gsm8k", "data.sets.docstrings.test_share=0.1"],
            "data.sets.docstrings.test_share=0.1: the set has test rows itself; data.sets.docstrings",
        ),
    ],
)
def test_what_does_nothing_is_refused_where_it_was_written(words, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        bound_as_written(*words)


def test_a_set_that_judges_the_others_needs_no_validation_rows():
    data = bound_as_written(SEVERAL, "data.sets.alpaca.only_for=test").data
    assert data.sets["alpaca"].goes_without_validation()
    assert not data.sets["gsm8k"].goes_without_validation()
