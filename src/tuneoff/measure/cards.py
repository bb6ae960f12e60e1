"""Cards: the published rates of GPUs, read from cards.yaml. Imports no torch, since settings pass through here."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CARDS = Path(__file__).with_name("cards.yaml")
CPU = "cpu"  # measured where it is asked for


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it.

    Attributes:
        tflops: 10¹² floating-point operations a second in dense matrix products, by type; `tf32` is one of them.
        bandwidth: GB/s of its memory, of 10⁹ bytes.
    """

    name: str
    reported_as: str
    tflops: dict[str, float]
    bandwidth: float
    source: str


@cache
def read_cards_file() -> dict[str, Any]:
    """The whole of cards.yaml."""
    import yaml

    return yaml.safe_load(CARDS.read_text())


@cache
def list_cards() -> dict[str, Card]:
    """Every card of the file, by the name that `device=` takes."""
    cards = read_cards_file()["cards"]
    return {key: Card(**facts) for key, facts in cards.items()}


def find_card(reported_name: str) -> Card | None:
    """The card of a GPU, by the name that CUDA reports; None where the file does not have it."""
    for card in list_cards().values():
        if card.reported_as == reported_name:
            return card
    return None
