"""The choices among BAdam's options."""

from enum import Enum


class Mode(Enum):
    """What trains at one time: a block of layers, or a share of every weight."""

    layer = "layer"
    ratio = "ratio"


class SwitchMode(Enum):
    """The order of the blocks."""

    ascending = "ascending"
    descending = "descending"
    random = "random"
    fixed = "fixed"


class MaskMode(Enum):
    """How a share of a weight is chosen: entries side by side, or anywhere in it."""

    adjacent = "adjacent"
    scatter = "scatter"
