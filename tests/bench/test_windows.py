"""Windows to be judged by, and what is judged: each token once, the context promised, the stock model's own answers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.language.windows import document_losses, in_batches, windows
from compression.modalities.text.causal_lm.documents import TokenizedDocuments, read
from compression.modalities.text.scoring.perplexity import added_loss, figures
from compression.quantization.fake_quantize import insert_fake_quantization
from tests.support.tiny_language import TEXTS, VOCABULARY, Largest, documents, model, tokenizer


def by_hand(network: torch.nn.Module, found: TokenizedDocuments, length: int) -> list[float]:
    """Give each token alone as much before it as `length` allows, through the stock model with its head."""
    losses = []
    for start, end, tail in zip(found.starts.tolist(), found.ends.tolist(), found.tails.tolist(), strict=True):
        ids = found.ids[start : end - tail].long()
        total = 0.0
        for at in range(found.lead, len(ids)):
            logits = network(ids[None, max(0, at - length) : at]).logits[0, -1]
            total += functional.cross_entropy(logits, ids[at]).item()
        losses.append(total)
    return losses


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (64, 32), (5, 5)])
def test_each_token_is_scored_exactly_once_with_the_context_promised(length: int, stride: int) -> None:
    found = read(TEXTS, tokenizer(bos=True, eos=True))
    asked = [[0] * (end - start) for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]
    for number, (start, end, first) in windows(found, length, stride):
        begin = int(found.starts[number])
        assert begin <= start
        assert end - start <= length
        for at in range(first, end + 1):
            asked[number][at - begin] += 1
            assert at - start >= min(at - begin, length - stride + 1)
    assert [sum(one) for one in asked] == found.scored.tolist()
    assert all(one == [0, *[1] * (len(one) - 2), 0] for one in asked)  # neither BOS nor EOS
    batches = list(in_batches(found, length, stride, 3))
    assert sum(int(batch.asked.sum()) for batch in batches) == int(found.scored.sum())


@pytest.mark.parametrize(("length", "stride"), [(8, 0), (8, 9)])
def test_strides_that_would_leave_tokens_out_are_refused(length: int, stride: int) -> None:
    with pytest.raises(ValueError, match="go on by"):
        windows(documents(), length, stride)


@pytest.mark.parametrize("bos", [True, False])
def test_losses_are_those_of_the_stock_model_with_as_much_context_as_windows_allow(bos: bool) -> None:
    network, found = model(), documents(bos=bos)
    with torch.no_grad():
        for length, stride in ((64, 32), (10, 1)):
            told = document_losses(network, found, length=length, stride=stride, batch=3, size=5)
            assert told.loss == pytest.approx(by_hand(network, found, length), rel=1e-4)
    assert told.tokens.tolist() == found.scored.tolist()


def test_less_context_foretells_other_probabilities_and_who_knows_nothing_takes_the_logarithm_of_its_vocabulary() -> None:
    network, found = model(), documents()
    few, many = (document_losses(network, found, length=8, stride=stride) for stride in (8, 1))
    assert np.abs(few.loss - many.loss).max() > 0.01
    assert few.loss[3] == pytest.approx(many.loss[3], rel=1e-5)  # "no" fits into one window
    torch.nn.init.zeros_(network.lm_head.weight)
    told = figures(document_losses(network, found, length=16, stride=8))
    assert told.loss.value == pytest.approx(math.log(VOCABULARY), rel=1e-5)
    assert told.perplexity.value == pytest.approx(VOCABULARY, rel=1e-4)
    assert told.bytes == sum(len(text.encode()) for text in TEXTS)
    assert told.bits_per_byte.value == pytest.approx(math.log2(VOCABULARY) * told.tokens / told.bytes, rel=1e-5)


def test_what_is_likeliest_counts_as_right() -> None:
    network, found = model(), documents(["aaaaaaaaaa", "the the the the"])
    with torch.no_grad():
        rows = in_batches(found, 16, 8, 1)
        right = [int((network(row.ids).logits.argmax(dim=-1) == row.labels).sum()) for row in rows]
        told = document_losses(network, found, length=16, stride=8, batch=1)
    assert sorted(told.right.tolist()) == sorted(right)


def test_answers_of_a_simulated_model_do_not_depend_on_the_batch() -> None:
    network, found = model(), documents()
    before = document_losses(network, found, length=16, stride=8)
    insert_fake_quantization(network)
    together, alone = (
        document_losses(network, found, length=16, stride=8, batch=batch, size=size) for batch, size in ((8, 64), (1, 1))
    )
    assert together.loss == pytest.approx(alone.loss, rel=1e-4)
    assert abs(added_loss(before, together).value) > 1e-4
    assert network.training is False


def test_no_tensor_of_all_tokens_by_the_vocabulary_is_made() -> None:
    network, found = model(vocab_size=3001), documents()
    tokens = int(found.scored.sum())
    with Largest() as seen:
        document_losses(network, found, length=64, stride=32, batch=8, size=40)
    assert seen.elements == 40 * 3001
    with Largest() as seen:
        network(next(in_batches(found, 64, 32, 8)).ids)
    assert seen.elements > tokens * 3001
