r"""Extractors: find the answer in a text, so that an exact match compares answers alone.

Every extractor is a regular expression with one group around the answer; its first match counts,
as in GSM8K's own `extract_answer` and in lm-eval's `strict-match`. Imports neither torch nor
transformers, since a refusal passes through here.
"""

import re

EXTRACTORS = {
    # GSM8K's `#### n` (Cobbe et al. 2021), with the `$` that models add.
    "gsm8k": r"####\s*([-$]*[\d.,]+)",
    "whole": r"(?s)(.*)",
}


def is_extractor(name: str) -> bool:
    """Return whether `name` is built in, or a regular expression with exactly one group."""
    if name in EXTRACTORS:
        return True
    try:
        return re.compile(name).groups == 1
    except re.error:
        return False


def extract_answer(text: str, name: str) -> str | None:
    """Return the answer that the extractor `name` finds in `text`, normalised; None without one."""
    pattern = EXTRACTORS.get(name, name)
    match = re.search(pattern, text)
    if match is None or match[1] is None:
        return None
    return normalize_answer(match[1])


def normalize_answer(text: str) -> str:
    """Return `text` without surrounding space; a number also without `$`, `,` and a trailing dot.

    Commas are taken out where they separate thousands. Source: the `regexes_to_ignore` of
    lm-eval's gsm8k. `18.0` and `18` stay different, as there.
    """
    stripped = text.strip()
    number = stripped.replace("$", "").rstrip(".,")
    if re.fullmatch(r"-?\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?", number):
        number = number.replace(",", "")
    is_number = re.fullmatch(r"-?\d*\.?\d+", number)
    return number if is_number else stripped
