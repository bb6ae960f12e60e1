"""Statistics of shares: what may be said from how many of n examples were answered rightly."""

import numpy as np
from scipy.special import bdtr, ndtr, ndtri

from tuneoff.report.stats import ALPHA


def wilson_interval(correct: int, examples: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = float(ndtri(1 - ALPHA / 2))
    share = correct / examples
    shrink = 1 + z**2 / examples
    centre = (share + z**2 / (2 * examples)) / shrink
    variance = share * (1 - share) / examples + z**2 / (4 * examples**2)
    half = z * np.sqrt(variance) / shrink
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def compare_shares(first: np.ndarray, second: np.ndarray, examples: int) -> np.ndarray:
    """Return the two-sided p value of equal shares, by the pooled z test, element by element.

    It takes both as independent samples. Where both answered the same examples, which agree more often than chance, it
    is conservative: the true p value is smaller.

    Args:
        first: counts of right answers.
        second: as many counts, of as many examples each.
        examples: n of each count.
    """
    pooled = (first + second) / (2 * examples)
    variance = pooled * (1 - pooled) * 2 / examples
    difference = np.abs(first - second) / examples
    varied = np.where(variance > 0, variance, 1.0)  # where both are all right or all wrong, z is 0
    return 2 * ndtr(-difference / np.sqrt(varied))


def mcnemar_p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p value that two models are right on the same examples equally often.

    Only the examples that one of them alone answered rightly count; each falls to either side like a coin.
    Source: Q. McNemar (1947), Note on the sampling error of the difference between correlated proportions.

    Args:
        first: (examples,) of 0 and 1.
        second: the other model's, on the same examples.
    """
    first_alone = int(np.sum((first == 1) & (second == 0)))
    second_alone = int(np.sum((first == 0) & (second == 1)))
    discordant = first_alone + second_alone
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(first_alone, second_alone), discordant, 0.5)))


def smallest_difference(share: float, examples: int, alpha: float, power: float) -> float:
    """Return the difference between two shares that a two-sided test at `alpha` shows with the given power."""
    quantiles = float(ndtri(1 - alpha / 2) + ndtri(power))
    return quantiles * float(np.sqrt(2 * share * (1 - share) / examples))
