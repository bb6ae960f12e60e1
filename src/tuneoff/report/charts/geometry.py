"""Geometry of a chart: rectangles in its plot, and where an axis puts a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from the upper left corner of the plot."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share an area."""
        beside = self.right <= other.left or other.right <= self.left
        apart = self.bottom <= other.top or other.bottom <= self.top
        return not beside and not apart

    def inside(self, width: float, height: float) -> bool:
        """Whether it lies within the plot."""
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


@dataclass(frozen=True)
class Axis:
    """An axis, linear or logarithmic: the values at its ends, and its length in pixels."""

    domain: Sequence[float]
    length: float
    upward: bool = False
    logarithmic: bool = False

    def to_pixels(self, value: float) -> float:
        """Return how far from the left, or from the top, a value lies."""
        low, high = map(self._scale, self.domain)
        share = (self._scale(value) - low) / (high - low)
        return self.length * (1 - share if self.upward else share)

    def to_value(self, pixels: float) -> float:
        """Return the value at a distance from the left, or from the top."""
        low, high = map(self._scale, self.domain)
        share = pixels / self.length
        value = low + (high - low) * (1 - share if self.upward else share)
        return math.exp(value) if self.logarithmic else value

    def _scale(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value
