"""Ranges that outliers break are named with what tames them; smoothing does, and leaves the float model what it was."""

import copy

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.evaluation.validate import logits
from compression.models.adapters.registry import ENCODER_ADAPTERS
from compression.quantization import calibration, range_check, smoothquant
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.layer_ranges import LayerRange
from tests.support.encoder_models import tiny
from tests.support.tiny_bert import encoded, sentences, tiny_config

BERT = ENCODER_ADAPTERS["bert"]

ROWS = encoded(sentences(48, 1))
LAYER = "bert.encoder.layer.1.attention.output.dense"


@pytest.fixture(scope="module")
def broken() -> BertForSequenceClassification:
    """One channel of 128 between value and attention output is 300 times as loud as it need be; the answers are the same."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2, hidden_size=128)).eval()
    layer = BERT.layers(model)[1]
    with torch.no_grad():
        for value in (layer.value.weight, layer.value.bias):
            value[7] *= 300
        layer.attended.weight[:, 7] /= 300
    return model


def simulated(model: BertForSequenceClassification, scheme: str) -> BertForSequenceClassification:
    twin = copy.deepcopy(model)
    settings = Quantize(scheme=scheme) if scheme != "static-int8" else Quantize(scheme=scheme, observer="min-max")
    if scheme == "static-int8":
        calibration.calibrate(twin, ROWS, settings)
    insert_fake_quantization(twin, simulation=Simulation.of(settings))
    return twin


def of(found: tuple[LayerRange, ...], name: str = LAYER) -> LayerRange:
    return next(layer for layer in found if layer.layer == name)


@pytest.mark.parametrize("scheme", ["dynamic-int8", "static-int8"])
def test_the_layer_outliers_break_is_named_and_smoothing_tames_it(broken: BertForSequenceClassification, scheme: str) -> None:
    plain = logits(broken, ROWS)
    rounded = simulated(broken, scheme)
    found = range_check.check_ranges(rounded, ROWS)
    assert ([layer.layer for layer in found if layer.broken], len(found)) == ([LAYER], 14)
    worst = of(found)
    assert worst.ratio == pytest.approx(worst.largest / worst.percentile)
    assert worst.ratio > 20
    assert 0.001 < worst.beyond < 1 / 128
    assert worst.smooths_into == "bert.encoder.layer.1.attention.self.value"
    assert (range_check.describe_broken(found) or "").startswith("Outliers break the range of 1 of 14 layers")
    assert LAYER in (range_check.describe_broken(found) or "")

    smooth = copy.deepcopy(broken)
    where = smoothquant.pairs(smooth)
    assert smoothquant.smooth(smooth, ROWS, 0.5).keys() == {pair.source for pair in where}
    outputs = {f"bert.encoder.layer.{n}.attention.output.dense" for n in (0, 1)}
    assert {reader for pair in where for reader in pair.readers} == {*outputs, "bert.pooler.dense"}
    assert torch.allclose(logits(smooth, ROWS), plain, atol=1e-5), "the float model must stay the same"
    again = simulated(smooth, scheme)
    tamed = of(range_check.check_ranges(again, ROWS))
    assert not tamed.broken
    assert range_check.describe_broken((tamed,)) is None
    assert tamed.levels_used > 4 * worst.levels_used
    assert tamed.ratio < 0.2 * worst.ratio
    apart = [(logits(model, ROWS) - plain).square().mean().item() for model in (rounded, again)]
    assert apart[1] < 0.5 * apart[0]


@pytest.mark.parametrize("scheme", ["dynamic-int8", "static-int8"])
def test_some_rows_of_each_batch_tell_what_all_do(
    broken: BertForSequenceClassification, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = simulated(broken, scheme)
    whole = range_check.check_ranges(rounded, ROWS)
    monkeypatch.setattr(range_check, "MOST", 64 * 128)  # of some 200 rows a batch
    some = range_check.check_ranges(rounded, ROWS)
    assert some != whole, "nothing was left out"
    for found, expected in zip(some, whole, strict=True):
        assert (found.layer, found.largest, found.broken) == (expected.layer, expected.largest, expected.broken)
        assert found.percentile == pytest.approx(expected.percentile, rel=0.15)
        assert found.levels_used == pytest.approx(expected.levels_used, rel=0.15)


def test_where_activations_stay_floating_point_no_range_is_broken(broken: BertForSequenceClassification) -> None:
    found = of(range_check.check_ranges(simulated(broken, "weight-only-int8"), ROWS))
    assert (found.levels_used, found.broken) == (None, False)
    assert found.ratio > 20
    assert range_check.check_ranges(broken, ROWS) == ()


def test_a_percentile_of_what_lies_beyond_brings_the_levels_back(broken: BertForSequenceClassification) -> None:
    before = of(range_check.check_ranges(simulated(broken, "static-int8"), ROWS))
    twin = copy.deepcopy(broken)
    percent = 100 * (1 - 2 * before.beyond)  # as the remedy says
    calibration.calibrate(twin, ROWS, Quantize(scheme="static-int8", observer="percentile", percentile=percent))
    insert_fake_quantization(twin, simulation=Simulation(scheme="static-int8"))
    after = of(range_check.check_ranges(twin, ROWS))
    assert not after.broken
    assert after.levels_used > 2 * before.levels_used


def test_the_factors_are_the_paper_s() -> None:
    s = smoothquant.factors(torch.tensor([16.0, 1.0, 0.0, 4.0]), torch.tensor([4.0, 1.0, 1.0, 0.0]), 0.5)
    assert s.tolist() == [2.0, 1.0, 1.0, 1.0]
    assert smoothquant.factors(torch.tensor([16.0]), torch.tensor([4.0]), 0.75).item() == pytest.approx(16**0.75 / 4**0.25)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "electra", "mpnet"])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_smoothing_is_exact_in_every_family(kind: str, head: str) -> None:
    more = {"activation": "relu"} if kind == "distilbert" else {"hidden_act": "relu"}
    model = tiny(kind, head, **more)
    ids, mask = torch.randint(5, 40, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        plain = model(input_ids=ids, attention_mask=mask).logits
        where = smoothquant.pairs(model)
        smoothquant.smooth(model, encoded(sentences(24, 1)), 0.6)
        assert torch.allclose(model(input_ids=ids, attention_mask=mask).logits, plain, atol=1e-5)
    # Two layers: value and up in each; the last norm; ELECTRA's projection.
    assert len(where) == 5 + (kind == "electra")
    for reader in (reader for pair in where for reader in pair.readers):
        assert not model.state_dict()[f"{reader}.weight"].equal(before[f"{reader}.weight"])
