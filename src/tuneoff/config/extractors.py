r"""Extractors: find the answer in a text, so that an exact match compares answers alone.

Every extractor is a regular expression with one group around the answer; its first match counts,
as in GSM8K's own `extract_answer` and in lm-eval's `strict-match`. The package `regex` searches,
since the standard library's `re` has no time limit. Imports neither torch nor transformers, since
a refusal passes through here.
"""

import logging
import re
from functools import cache

log = logging.getLogger(__name__)
EXTRACTORS = {
    # GSM8K's `#### n` (Cobbe et al. 2021), with the `$` that models add.
    "gsm8k": r"####\s*([-$]*[\d.,]+)",
    "whole": r"(?s)(.*)",
}
# Seconds of CPU time that one search may take. An expression that backtracks without end is one
# of the user's settings, and the texts are whatever a model generates.
SEARCH_SECONDS = 1.0
# Each of these patterns takes a time that grows linearly with the text.
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?")
NUMBER = re.compile(r"-?(\d+(\.\d+)?|\.\d+)")


def is_extractor(name: str) -> bool:
    """Return whether `name` is built in, or a regular expression with exactly one group."""
    if name in EXTRACTORS:
        return True
    import regex

    try:
        return regex.compile(name).groups == 1
    except (regex.error, RecursionError, OverflowError):
        return False


def extract_answer(text: str, name: str) -> str | None:
    """Return the answer that the extractor `name` finds in `text`, normalised; None without one.

    Raises:
        TimeoutError: the search takes longer than `SEARCH_SECONDS`, in any thread; the log tells of
            the first.
    """
    import regex

    pattern = EXTRACTORS.get(name, name)
    try:
        match = regex.search(pattern, text, timeout=SEARCH_SECONDS)
    except TimeoutError:
        warn_of_slow_search(pattern)
        raise
    if match is None or match[1] is None:
        return None
    return normalize_answer(match[1])


@cache
def warn_of_slow_search(pattern: str) -> None:
    """Tell once of an expression that takes too long."""
    log.warning(
        "exact_match=%s takes longer than %g s on a text: that counts as no match",
        pattern,
        SEARCH_SECONDS,
    )


def normalize_answer(text: str) -> str:
    """Return `text` without surrounding space; a number also without `$`, `,` and a trailing dot.

    Commas are taken out where they separate thousands. Source: the `regexes_to_ignore` of
    lm-eval's gsm8k. `18.0` and `18` stay different, as there.
    """
    stripped = text.strip()
    number = stripped.replace("$", "").rstrip(".,")
    if THOUSANDS.fullmatch(number):
        number = number.replace(",", "")
    return number if NUMBER.fullmatch(number) else stripped
