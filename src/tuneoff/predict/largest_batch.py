"""The largest batch that fits: found by predicting, so that both the answer and the next larger batch were run."""

from collections.abc import Callable

MOST = 2**16


def find_largest_batch(
    needed: Callable[[int], float], limit: float, start: int, without_rows: float
) -> tuple[int, dict[int, float]]:
    """The largest size whose `needed(size)` is at most `limit`, 0 if none, with every size that was tried.

    Args:
        needed: what a size needs; it does not fall as sizes grow.
        without_rows: roughly what is needed for no rows, to make a first guess.
    """
    tried: dict[int, float] = {}
    low, high, size = 0, MOST, min(start, MOST - 1)
    while high - low > 1:
        tried[size] = needed(size)
        low, high = (max(low, size), high) if tried[size] <= limit else (low, min(high, size))
        # Memory is nearly a line in the rows: a line through the nearest sizes lands on the answer or beside it.
        known = sorted({0: without_rows, **tried}.items(), key=lambda item: abs(item[1] - limit))
        (one, first), (two, second) = known[:2]
        slope = (second - first) / (two - one)
        guess = int(one + (limit - first) / slope) if slope > 0 else (low + high) // 2
        size = min(max(guess, low + 1), high - 1)
    return low, tried
