"""Rows to learn from: whole, full, and each document for itself."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from compression.modalities.text.causal_lm import hidden_states
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.causal_lm.packing import Packed, packed
from tests.support.tiny_language import FAMILIES, TEXTS, documents, model, tokenizer


@pytest.mark.parametrize("length", [4, 16, 64])
def test_every_token_but_a_texts_first_is_asked_for_exactly_once(length: int) -> None:
    reader = tokenizer(bos=True, eos=True)
    found = read(TEXTS, reader)
    rows = Packed(found, length)
    told: Counter[int] = Counter()
    for batch in rows.in_order(3):
        assert batch.ids.shape[1] <= length
        told.update(batch.wanted.tolist())
    wanted = Counter(found.ids.tolist())
    assert reader.bos_token_id not in told
    assert told[reader.eos_token_id] == len(TEXTS)  # that a text ends is learned
    del wanted[reader.bos_token_id]
    assert told == wanted
    assert sum(rows.asked) == wanted.total()
    assert max(map(len, map(rows.ids_of, range(len(rows))))) <= length


def test_what_is_asked_for_follows_what_is_read() -> None:
    found = documents(bos=False)
    pairs = set()
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        pairs |= set(pairwise(found.ids[start:end].tolist()))
    for batch in Packed(found, 12).in_order(2):
        assert set(zip(batch.ids[batch.asked].tolist(), batch.wanted.tolist(), strict=True)) <= pairs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_documents_of_a_row_do_not_see_each_other(family: str, attention: str) -> None:
    network, found = model(family, attn_implementation=attention), documents()
    row = Packed(found, 64).batch([0, 1])
    assert network.config._attn_implementation == attention
    assert (row.positions == 0).sum() > 2  # several in a row
    with torch.no_grad():
        together = hidden_states.last_hidden_states(network, row)
        torch.testing.assert_close(hidden_states.output_layer(network)(together), network(**row.inputs).logits)
        for line, starts in enumerate(row.positions):
            begins = [*starts.eq(0).nonzero().flatten().tolist(), len(starts)]
            for start, end in pairwise(begins):
                alone = network(row.ids[line : line + 1, start:end], output_hidden_states=True)
                torch.testing.assert_close(together[line, start:end], alone.hidden_states[-1][0], atol=2e-5, rtol=1e-4)
        crossing = hidden_states.last_hidden_states(network, replace(row, positions=torch.arange(row.ids.shape[1])[None]))
    assert (crossing - together).abs().max() > 1e-2
    assert (crossing - together)[:, 0].abs().max() < 1e-4


def test_attention_that_takes_no_mask_is_refused() -> None:
    network = model()
    network.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="see each other"):
        hidden_states.last_hidden_states(network, Packed(documents(), 64).batch([0]))


def test_best_fit_leaves_little_padding() -> None:
    sizes = [7, 6, 5, 5, 4, 3, 3, 3, 2, 2]
    stretches = [(100 * number, 100 * number + size, 100 * number + 1) for number, size in enumerate(sizes)]
    rows = packed(stretches, 10)
    assert len(rows) == 4
    assert sorted(stretch for row in rows for stretch in row) == stretches
    assert all(sum(end - start for start, end, _ in row) == 10 for row in rows)


def test_an_epoch_goes_over_all_rows_in_an_order_given_by_the_seed() -> None:
    rows = Packed(documents(), 8)
    orders = [[batch.rows.tolist() for batch in rows.shuffled(3, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(row for some in orders[2] for row in some) == list(range(len(rows)))
    batch = next(rows.shuffled(3, 1))
    for one, part in zip(batch.rows.tolist(), (line for half in batch.split(2) for line in half.ids), strict=True):
        row = rows.batch([one])
        assert part[: row.ids.shape[1]].tolist() == row.ids[0].tolist()


def test_padding_is_asked_for_nothing_and_changes_nothing() -> None:
    network, rows = model(), Packed(documents(), 24)
    last = len(rows) - 1
    batch = rows.batch([0, last])
    width = len(rows.ids_of(last))
    assert width < batch.ids.shape[1]
    assert not batch.asked[1, width:].any()
    assert batch.mask.sum(dim=1).tolist() == [batch.ids.shape[1], width]
    other = replace(batch, ids=batch.ids.clone())
    other.ids[1, width:] = 7
    with torch.no_grad():
        assert torch.equal(hidden_states.scored_states(network, batch), hidden_states.scored_states(network, other))
