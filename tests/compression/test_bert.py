"""BERT made narrower: what can be exact is exact, and the result is a stock model."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from compression.models.adapters.cutting import unit_indices
from compression.models.adapters.registry import ENCODER_ADAPTERS, encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures import families
from compression.models.architectures.shapes import parameters_at
from tests.compression.conftest import tiny_config

BERT = ENCODER_ADAPTERS["bert"]
IDS = torch.randint(5, 40, (4, 11), generator=torch.Generator().manual_seed(0))


def some(count: int, of: int) -> torch.Tensor:
    return torch.randperm(of, generator=torch.Generator().manual_seed(count))[:count].sort().values


def narrow_choice() -> PruningPlan:
    heads = {"heads.0": torch.tensor([0, 3]), "heads.1": torch.tensor([1, 2])}
    return PruningPlan({"hidden": some(16, 32), "pooled": some(16, 32), **heads, "ffn": some(40, 64)})


@torch.no_grad()
def test_removing_feed_forward_units_equals_masking_them(model: BertForSequenceClassification) -> None:
    kept = PruningPlan({"ffn.0": some(24, 64), "ffn.1": some(25, 64)[:24]})
    small = BERT.narrowed(model, kept)
    for layer, units in zip(BERT.layers(model), kept.kept.values(), strict=True):
        gone = torch.ones(64, dtype=torch.bool)
        gone[units] = False
        layer.down.weight[:, gone] = 0
    assert small.config.intermediate_size == 24
    assert torch.allclose(small(IDS).logits, model(IDS).logits, atol=1e-6)


@torch.no_grad()
def test_removing_heads_equals_masking_them(model: BertForSequenceClassification) -> None:
    kept, stream = narrow_choice(), torch.zeros(2, 7, 32)
    small, hidden = BERT.narrowed(model, kept), kept.kept["hidden"]
    stream[..., hidden] = torch.randn(2, 7, 16)
    dense, cut = BERT.layers(model)[0], BERT.layers(small)[0]
    gone = torch.ones(32, dtype=torch.bool)
    gone[unit_indices(kept.kept["heads.0"], 8)] = False
    dense.attended.weight[:, gone] = 0
    wanted = dense.attended(model.bert.encoder.layer[0].attention.self(stream)[0])[..., hidden]
    given = cut.attended(small.bert.encoder.layer[0].attention.self(stream[..., hidden])[0])
    assert torch.allclose(given, wanted, atol=1e-6)


@torch.no_grad()
def test_keeping_everything_changes_nothing(model: BertForSequenceClassification) -> None:
    assert BERT.narrowed(model, PruningPlan())(IDS).logits.equal(model(IDS).logits)


@torch.no_grad()
def test_stock_from_pretrained_opens_what_was_cut(model: BertForSequenceClassification, tmp_path: Path) -> None:
    small = BERT.narrowed(model, narrow_choice())
    small.save_pretrained(tmp_path)
    opened, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert opened(IDS).logits.equal(small(IDS).logits)
    shape = BERT.shape_of(opened.config)
    assert (shape.hidden, shape.heads, shape.ffn) == (16, 2, 40)


def test_the_model_that_was_cut_is_left_alone(model: BertForSequenceClassification) -> None:
    before = model(IDS).logits
    small = BERT.narrowed(model, narrow_choice())
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert model(IDS).logits.equal(before)
    assert model.config.hidden_size == 32


@pytest.mark.parametrize("cut", [False, True])
def test_parameters_are_counted_as_the_catalog_foretells(model: BertForSequenceClassification, cut: bool) -> None:
    subject = BERT.narrowed(model, narrow_choice()) if cut else model
    foretold = parameters_at(families.BERT, BERT.shape_of(subject.config), rows=66, outputs=2)
    assert BERT.parameters_of(subject) == foretold


@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForQuestionAnswering, BertModel])
@torch.no_grad()
def test_every_head_class_is_cut_like_its_encoder(kind: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind(tiny_config(num_labels=2)).eval()
    family, choice = encoder_of(model), narrow_choice()
    small = family.narrowed(model, choice)
    assert type(small) is kind
    masked = family.narrowed(model, PruningPlan({"ffn": choice.kept["ffn"]}))
    for layer in family.layers(model):
        gone = torch.ones(64, dtype=torch.bool)
        gone[choice.kept["ffn"]] = False
        layer.down.weight[:, gone] = 0
    assert torch.allclose(masked(IDS)[0], model(IDS)[0], atol=1e-6)
    small.save_pretrained(tmp_path)
    opened, report = kind.from_pretrained(tmp_path, output_loading_info=True)  # type: ignore[attr-defined]
    assert not report["missing_keys"]
    assert opened(IDS)[0].equal(small(IDS)[0])


@torch.no_grad()
def test_a_shallower_model_computes_the_layers_that_stayed(model: BertForSequenceClassification, tmp_path: Path) -> None:
    torch.manual_seed(0)
    deep = BertForSequenceClassification(tiny_config(num_labels=2, num_hidden_layers=4)).eval()
    small = BERT.without_layers(deep, [0, 3])
    assert small.config.num_hidden_layers == 2
    blocks = deep.bert.encoder.layer
    deep.bert.encoder.layer = torch.nn.ModuleList([blocks[0], blocks[3]])
    wanted = deep(IDS).logits
    assert small(IDS).logits.equal(wanted)
    small.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path)(IDS).logits.equal(wanted)
    with pytest.raises(ValueError, match="layers"):
        BERT.without_layers(model, [2])


@torch.no_grad()
def test_a_smaller_vocabulary_answers_the_same_for_the_tokens_it_knows(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    kept = [0, 1, 2, 3, 4, *sorted(set(IDS.flatten().tolist()))]
    model.config.eos_token_id, model.config.bos_token_id = 3, 40
    small = BERT.with_vocabulary(model, kept)
    renumbered = torch.tensor([[kept.index(token) for token in row] for row in IDS.tolist()])
    assert small.config.vocab_size == len(kept) < model.config.vocab_size
    assert (small.config.eos_token_id, small.config.bos_token_id) == (3, None)
    assert small(renumbered).logits.equal(model(IDS).logits)
    small.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path)(renumbered).logits.equal(model(IDS).logits)
    for wrong in ([1, 2, 3], [0, 1, 1], [0, model.config.vocab_size]):
        with pytest.raises(ValueError, match="token"):
            BERT.with_vocabulary(model, wrong)
