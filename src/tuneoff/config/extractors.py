r"""Finds the answer in a text, so that an exact match compares answers and not the way to them.

Every extractor is a regular expression with one group around the answer; its first match counts, as in GSM8K's own
`extract_answer` and in lm-eval's `strict-match`. Imports nothing: a refusal passes through here.
"""

import re

EXTRACTORS = {
    "gsm8k": r"####\s*([-$]*[\d.,]+)",  # GSM8K's `#### n` (Cobbe et al. 2021), with the `$` that models add
    "whole": r"(?s)(.*)",
}


def is_extractor(name: str) -> bool:
    """Whether `name` is built in, or a regular expression with exactly one group."""
    try:
        return name in EXTRACTORS or re.compile(name).groups == 1
    except re.error:
        return False


def extract_answer(text: str, name: str) -> str | None:
    """The answer that the extractor `name` finds in `text`, normalised; None where it finds none."""
    found = re.search(EXTRACTORS.get(name, name), text)
    return None if found is None or found[1] is None else normalize_answer(found[1])


def normalize_answer(text: str) -> str:
    """`text` without surrounding space; a number also without `$`, thousands separators and a trailing dot.

    Source: the `regexes_to_ignore` of lm-eval's gsm8k. `18.0` and `18` stay different, as there.
    """
    bare = text.strip().replace("$", "").rstrip(".,")
    if re.fullmatch(r"-?\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?", bare):
        bare = bare.replace(",", "")
    return bare if re.fullmatch(r"-?\d*\.?\d+", bare) else text.strip()
