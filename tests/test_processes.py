"""One run in several processes: the same losses as in one, one record, and nothing left when a rank dies."""
from array import array

from transformers import AutoModelForCausalLM

from tuneoff.data import Row, collate, deal, eval_batches
from tuneoff.step import summed_loss

ROWS = [Row(array("i", range(1, 3 + size)), ((1, 2 + size),)) for size in (3, 50, 9, 17, 1, 30, 5)]


# ---------------------------------------------------------------- dealing rows
def test_every_row_is_dealt_once_and_every_rank_gets_as_many_batches():
    for ranks in (1, 2, 3, 8):
        shares = [deal([ROWS[i:i + 2] for i in range(0, 7, 2)], rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(row for share in shares for part in share for row in part if row.spans) == sorted(ROWS)
        evaluated = [batch for rank in range(ranks) for batch in eval_batches(ROWS, 2, 0, rank, ranks)]
        assert sum(batch.label_tokens for batch in evaluated) == sum(row.labels for row in ROWS)


def test_the_row_that_stands_in_adds_nothing_but_reaches_every_weight(debug_model):
    model = AutoModelForCausalLM.from_pretrained(debug_model)
    blank, = deal([ROWS[:2]], 1, 2)
    loss = summed_loss(model, collate(blank, 0))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
