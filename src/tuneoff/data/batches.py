"""Batches: rows become tensors, and each of several ranks gets its share."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from tuneoff.data.dataset import Row
from tuneoff.data.packing import PackedRow, example_starts


class Batch(NamedTuple):
    """A micro-batch, padded on the right.

    No token attends to a later one, so padding on the right needs no attention mask.
    """

    # (rows, length)
    input_ids: torch.Tensor
    # (rows, length), counted from 0 in each example; None where each row is one example.
    position_ids: torch.Tensor | None
    # (label_tokens,): where each label is predicted, as row · length + position.
    keep: torch.Tensor
    # (label_tokens,): the token after each of these positions.
    labels: torch.Tensor
    tokens: int  # without padding
    examples: int

    @property
    def label_tokens(self) -> int:
        """Number of tokens whose prediction is trained."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on another device; to CUDA it travels while this process goes on."""
        tensors: dict[str, Any] = {}
        for name, value in self._asdict().items():
            if isinstance(value, torch.Tensor):
                # From memory that may be swapped out a copy waits for what the device is doing.
                source = value.pin_memory() if device.type == "cuda" else value
                tensors[name] = source.to(device, non_blocking=True)
        return self._replace(**tensors)


def collate(
    rows: Sequence[Row | PackedRow],
    pad: int,
    lengths: Sequence[int] = (),
) -> Batch:
    """Pad `rows` with the token `pad` to the longest of them, or to the first of `lengths` that holds it.

    Where the labels are is an index made here on the host, so that a step reads nothing back.
    """
    length = max(len(row.ids) for row in rows)
    length = min((one for one in lengths if one >= length), default=length)
    input_ids = torch.full((len(rows), length), pad)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    label_indices: list[int] = []
    for index, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.long)
        input_ids[index, : len(ids)] = ids
        offset = index * length
        for start, end in row.spans:
            label_indices.extend(range(offset + start, offset + end))
        # Padding counts as an example of its own, without labels.
        bounds = {*example_starts(row), len(row.ids), length}
        for start, end in pairwise(sorted(bounds)):
            position_ids[index, start:end] = torch.arange(end - start)
    labelled = torch.tensor(label_indices, dtype=torch.long)
    packed = any(isinstance(row, PackedRow) for row in rows)
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids if packed else None,
        # The token at position p is predicted at p - 1.
        keep=labelled - 1,
        labels=input_ids.flatten()[labelled],
        tokens=sum(len(row.ids) for row in rows),
        examples=sum(len(example_starts(row)) for row in rows),
    )


def split_between_ranks(
    batches: Sequence[Sequence[Row | PackedRow]], rank: int, ranks: int
) -> list[Sequence[Row | PackedRow]]:
    """Return this rank's micro-batches of a step or an evaluation: every `ranks`-th one.

    Neighbours run side by side. All ranks get equally many, since they wait for each other after
    each; a row without a label stands in for a missing one.
    """
    row_without_label = Row(batches[0][0].ids[:1], ())
    missing = -len(batches) % ranks
    padded = [*batches]
    for _ in range(missing):
        padded.append([row_without_label])
    return padded[rank::ranks]


def evaluation_batches(
    rows: list[Row],
    size: int,
    pad: int,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Yield all rows once in batches of `size`; with several `ranks`, the share of one.

    Rows of like length stand together, so that little is padded. A token-weighted mean does not
    depend on the order.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    batches = []
    for start in range(0, len(ordered), size):
        batches.append(ordered[start : start + size])
    for batch in split_between_ranks(batches, rank, ranks):
        yield collate(batch, pad)
