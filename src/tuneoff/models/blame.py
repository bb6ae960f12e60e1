"""Blame: which of several options a library's message is about, by their names in it."""

import re
from collections.abc import Iterable


def find_mentioned(message: str, names: Iterable[str]) -> list[str]:
    """Return the names that a message mentions, in its order; `hidden_size` is there as `hidden size`, too."""
    places = []
    for name in names:
        words = re.escape(name).replace("_", "[_ ]")
        match = re.search(rf"\b{words}\b", message, re.IGNORECASE)
        if match:
            places.append((match.start(), name))
    return [name for _, name in sorted(places)]
