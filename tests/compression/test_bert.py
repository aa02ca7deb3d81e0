"""BERT made narrower: what can be exact is exact, and the result is a stock model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from compression import catalog
from compression.families import bert

IDS = torch.randint(5, 40, (4, 11), generator=torch.Generator().manual_seed(0))


def some(count: int, of: int) -> torch.Tensor:
    return torch.randperm(of, generator=torch.Generator().manual_seed(count))[:count].sort().values


def narrow_choice() -> bert.Kept:
    return bert.Kept(
        hidden=some(16, 32),
        pooled=some(16, 32),
        heads=(torch.tensor([0, 3]), torch.tensor([1, 2])),
        ffn=(some(40, 64), some(40, 64)),
    )


@torch.no_grad()
def test_removing_feed_forward_units_equals_masking_them(model: BertForSequenceClassification) -> None:
    kept = bert.everything(model)
    kept = bert.Kept(kept.hidden, kept.pooled, kept.heads, (some(24, 64), some(25, 64)[:24]))
    small = bert.narrowed(model, kept)
    for layer, units in zip(bert.layers(model), kept.ffn, strict=True):
        gone = torch.ones(64, dtype=torch.bool)
        gone[units] = False
        layer.down.weight[:, gone] = 0
    assert small.config.intermediate_size == 24
    assert torch.allclose(small(IDS).logits, model(IDS).logits, atol=1e-6)


@torch.no_grad()
def test_removing_heads_equals_masking_them(model: BertForSequenceClassification) -> None:
    kept = narrow_choice()
    small = bert.narrowed(model, kept)
    stream = torch.zeros(2, 7, 32)
    stream[..., kept.hidden] = torch.randn(2, 7, 16)
    dense, cut = bert.layers(model)[0], bert.layers(small)[0]
    gone = torch.ones(32, dtype=torch.bool)
    gone[bert.head_rows(kept.heads[0], 8)] = False
    dense.attended.weight[:, gone] = 0
    wanted = dense.attended(model.bert.encoder.layer[0].attention.self(stream)[0])[..., kept.hidden]
    given = cut.attended(small.bert.encoder.layer[0].attention.self(stream[..., kept.hidden])[0])
    assert torch.allclose(given, wanted, atol=1e-6)


@torch.no_grad()
def test_keeping_everything_changes_nothing(model: BertForSequenceClassification) -> None:
    assert bert.narrowed(model, bert.everything(model))(IDS).logits.equal(model(IDS).logits)


@torch.no_grad()
def test_stock_from_pretrained_opens_what_was_cut(model: BertForSequenceClassification, tmp_path: Path) -> None:
    small = bert.narrowed(model, narrow_choice())
    small.save_pretrained(tmp_path)
    opened, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert opened(IDS).logits.equal(small(IDS).logits)
    shape = bert.shape_of(opened.config)
    assert (shape.hidden, shape.heads, shape.ffn) == (16, 2, 40)


def test_the_model_that_was_cut_is_left_alone(model: BertForSequenceClassification) -> None:
    before = model(IDS).logits
    small = bert.narrowed(model, narrow_choice())
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert model(IDS).logits.equal(before)
    assert model.config.hidden_size == 32


@pytest.mark.parametrize("cut", [False, True])
def test_parameters_are_counted_as_the_catalog_foretells(model: BertForSequenceClassification, cut: bool) -> None:
    subject = bert.narrowed(model, narrow_choice()) if cut else model
    foretold = catalog.bert_parameters(bert.shape_of(subject.config), positions=64, types=2, labels=2)
    assert bert.parameters_of(subject) == foretold
