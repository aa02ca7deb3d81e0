"""Encoders whose layers have feed-forward widths of their own: cut, saved as stock checkpoints, opened again, drawn."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.activations import ACT2FN

from compression.models.adapters.layer_widths import KEY
from compression.models.adapters.registry import encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.models.loading import open_stock
from compression.models.validation.config import ACTIVATIONS
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from compression.schema.errors import ConfigMismatch
from compression.schema.recipe.quantize import Quantize
from tests.support.encoder_models import FFN, STEMS, tiny

UNITS = (24, 40)
"""What the two layers keep; FFN are there."""


@torch.no_grad()
def answers(model: PreTrainedModel) -> Tensor:
    """Return the logits of rows, of which one is padded."""
    ids = torch.tensor([[5, 7, 9, 11, 6, 8], [5, 9, 7, 1, 1, 1]])
    logits: Tensor = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    return logits


def cut(model: PreTrainedModel, units: tuple[int, ...] = UNITS, layers: tuple[int, ...] | None = None) -> PreTrainedModel:
    """Keep the last units of each layer: not those that come first."""
    plan = PruningPlan({f"ffn.{number}": torch.arange(FFN - own, FFN) for number, own in enumerate(units)}, layers)
    return encoder_of(model).narrowed(model, plan)


@pytest.mark.parametrize("kind", list(STEMS))
def test_a_cut_with_widths_of_their_own_says_what_the_masked_whole_says(kind: str) -> None:
    model = tiny(kind)
    small, family = cut(model), encoder_of(model)
    assert family.shape_of(small.config).ffns == UNITS
    assert [layer.up.out_features for layer in family.layers(small)] == [*UNITS]
    assert [layer.down.in_features for layer in family.layers(small)] == [*UNITS]
    with torch.no_grad():
        for layer, units in zip(family.layers(model), UNITS, strict=True):
            layer.down.weight[:, : FFN - units] = 0
    torch.testing.assert_close(answers(small), answers(model))


@pytest.mark.parametrize("kind", list(STEMS))
def test_what_stock_code_opens_answers_alike_and_the_engine_gets_its_own_back(kind: str, tmp_path: Path) -> None:
    small = cut(tiny(kind))
    family = encoder_of(small)
    family.save(small, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert {layer.up.out_features for layer in family.layers(stock)} == {max(UNITS)}
    torch.testing.assert_close(answers(stock), answers(small))
    again = family.reopened(open_stock(tmp_path, heads.CLASSIFIER, sent=False)[0])
    assert {name: tuple(each.shape) for name, each in again.state_dict().items()} == {
        name: tuple(each.shape) for name, each in small.state_dict().items()
    }
    assert torch.equal(answers(again), answers(small))
    assert family.shape_of(again.config) == family.shape_of(small.config)


def test_a_model_is_a_stock_one_if_all_layers_keep_as_many_units(tmp_path: Path) -> None:
    small = cut(tiny("bert"), (24, 24))
    family = encoder_of(small)
    assert family.shape_of(small.config).ffns is None
    assert family.evened(small) is small
    family.save(small, tmp_path)
    assert KEY not in json.loads((tmp_path / "config.json").read_text())


def test_an_upload_that_names_widths_is_what_its_tensors_are(tmp_path: Path) -> None:
    small = cut(tiny("bert"))
    encoder_of(small).save(small, tmp_path)
    sent, _ = open_stock(tmp_path, heads.CLASSIFIER)
    shape = encoder_of(sent).shape_of(sent.config)
    assert (shape.ffn, shape.ffns) == (max(UNITS), None)


def test_no_weights_are_lost_if_a_checkpoint_names_other_widths_than_its_zeros(tmp_path: Path) -> None:
    small = cut(tiny("bert"))
    encoder_of(small).save(small, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in ([16, 40], [24], [24, 41], [0, 40]):
        (tmp_path / "config.json").write_text(json.dumps({**config, KEY: wrong}))
        model, _ = open_stock(tmp_path, heads.CLASSIFIER, sent=False)
        with pytest.raises(ConfigMismatch, match=KEY):
            encoder_of(small).reopened(model)


@pytest.mark.parametrize("scheme", ["dynamic-int8", "weight-only-int8"])
def test_a_filled_copy_simulates_the_same_integers(scheme: str) -> None:
    small = cut(tiny("bert"))
    insert_fake_quantization(small, simulation=Simulation.of(Quantize.model_validate({"scheme": scheme})))
    even = encoder_of(small).evened(small)
    assert simulation_of(even) == simulation_of(small)
    torch.testing.assert_close(answers(even), answers(small), rtol=1e-5, atol=1e-6)


def test_layers_and_tokens_may_go_with_it_and_a_further_cut_follows() -> None:
    model = tiny("bert", num_hidden_layers=3)
    small = cut(model, (24, 40, 32), (0, 2))
    family = encoder_of(model)
    assert family.shape_of(small.config).ffns == (24, 32)
    fewer = family.with_vocabulary(small, [*range(20)])
    assert family.shape_of(fewer.config).ffns == (24, 32)
    again = family.narrowed(fewer, PruningPlan({"ffn.1": torch.arange(24)}))
    assert (family.shape_of(again.config).ffn, family.shape_of(again.config).ffns) == (24, None)
    assert KEY not in again.config.to_dict()


def test_new_weights_can_be_drawn_and_are_counted_as_they_are() -> None:
    model = tiny("bert")
    family = encoder_of(model)
    shape = family.shape_of(model.config).with_ffns(UNITS)
    drawn = family.drawn(model, shape)
    assert answers(drawn).shape == answers(model).shape
    found = parameters_at(ARCHITECTURE_SPECS["bert"], shape, rows=66 + 2, outputs=2)
    assert found == family.parameters_of(drawn)
    assert found.total < family.parameters_of(cut(model, (40, 40))).total


def test_every_activation_that_is_accepted_leaves_a_unit_of_zeros_at_zero() -> None:
    assert [ACT2FN[name](torch.zeros(1)).item() for name in ACTIVATIONS] == [0.0] * len(ACTIVATIONS)


def test_training_leaves_the_zeros_of_a_filled_copy_as_they_are() -> None:
    even = encoder_of(tiny("bert")).evened(cut(tiny("bert")))
    steps = torch.optim.AdamW(even.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        steps.zero_grad()
        even(input_ids=torch.tensor([[5, 7, 9]]), labels=torch.tensor([1])).loss.backward()
        steps.step()
    layer = encoder_of(even).layers(even)[0]
    assert not layer.up.weight[UNITS[0] :].any()
    assert not layer.down.weight[:, UNITS[0] :].any()
    assert layer.up.weight[: UNITS[0]].any()
