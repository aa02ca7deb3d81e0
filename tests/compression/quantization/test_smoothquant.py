"""Factors that are searched for: the float model stays the same to the bit, rounding costs less, a cut does not see them."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities.text.batches import TokenizedDataset
from compression.models.linear_layers import matrix
from compression.pruning.scores import score_units
from compression.quantization import smoothquant
from compression.quantization.calibration import calibrate
from compression.quantization.dynamic_int8 import integer_linear
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, is_simulated, remove_fake_quantization
from compression.schema.events import StageStarted
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from tests.compression.engine.test_language_job import RECIPE, run, scores, write
from tests.compression.models.adapters.test_decoder_structure import some_rows
from tests.support.decoder_families import KINDS, WORDS, logits, tiny_classifier
from tests.support.encoder_models import STEMS, tiny

SCHEMES = [Quantize(), Quantize(scheme="static-int8", observer="min-max")]
SCHEMES += [Quantize(scheme="weight-only-int8"), Quantize(scheme="weight-only-int4", group_size=32)]


ENCODERS = list(STEMS)


def loud(kind: str) -> PreTrainedModel:
    """Make some channels of each norm and of each layer's units loud, as those of large language models are."""
    model = tiny(kind, vocab_size=WORDS) if kind in ENCODERS else tiny_classifier(kind)
    with torch.no_grad():
        for pair in smoothquant.pairs(model):
            source = model.get_submodule(pair.source)
            part = matrix(source) if source.weight.ndim > 1 else source.weight
            part[::8] *= 30
            for reader in pair.readers:
                matrix(model.get_submodule(reader))[:, ::8] /= 30
    return model


def read_rounded(model: PreTrainedModel, settings: Quantize, rows: TokenizedDataset) -> PreTrainedModel:
    twin = copy.deepcopy(model)
    if settings.scheme == "static-int8":
        calibrate(twin, rows, settings)
    readers = {reader for pair in smoothquant.pairs(twin) for reader in pair.readers}
    insert_fake_quantization(twin, readers.__contains__, Simulation.of(settings))
    return twin


@pytest.mark.parametrize("kind", [*KINDS, *ENCODERS])
def test_what_is_searched_for_is_folded_in_to_the_bit(kind: str) -> None:
    model, rows = loud(kind), some_rows(24)
    plain, before = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    found = smoothquant.smooth(model, rows, "search")
    assert found.keys() == {pair.source for pair in smoothquant.pairs(model)}
    assert all((s.log2() % 1 == 0).all() for s in found.values())
    assert any((s != 1).any() for s in found.values())
    assert logits(model).equal(plain)
    smooth = {name: value.clone() for name, value in model.state_dict().items()}
    insert_fake_quantization(model)
    with smoothquant.undone(model, found):
        assert not is_simulated(model)
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert is_simulated(model)
    assert all(value.equal(smooth[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("settings", SCHEMES, ids=lambda settings: settings.scheme)
@pytest.mark.parametrize("kind", ["llama", "deepseek_v3", "bert", "roberta"])
def test_rounding_costs_less_by_factors_that_were_searched_for(kind: str, settings: Quantize) -> None:
    model, rows = loud(kind), some_rows(24)
    plain = logits(model)

    def off(one: PreTrainedModel) -> float:
        return (logits(read_rounded(one, settings, rows)) - plain).square().mean().item()

    before = off(model)
    smoothquant.smooth(model, rows, "search", simulation=Simulation.of(settings))
    assert off(model) < 0.25 * before


def test_the_error_that_is_searched_by_is_that_of_the_integers() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=draw) * torch.where(torch.arange(32) % 8 == 0, 40.0, 1.0)
    weight = torch.randn(48, 32, generator=draw)

    def error(s: Tensor) -> float:
        return smoothquant.rounding_error(x / s, [weight * s], Simulation())

    flat = torch.where(torch.arange(32) % 8 == 0, 8.0, 1.0)
    assert error(flat) < 0.5 * error(torch.ones(32))
    assert error(1 / flat) > error(torch.ones(32))
    answer = x @ weight.t()
    rounded = integer_linear(x, weight)
    assert error(torch.ones(32)) == pytest.approx(((rounded - answer).square().sum() / answer.square().sum()).item(), rel=1e-3)


@pytest.mark.parametrize("how", [0.6, "search"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "deepseek_v3"])
def test_a_cut_chooses_as_if_nothing_had_been_smoothed(kind: str, how: float) -> None:
    model, rows, settings = loud(kind), some_rows(24), Prune(calibration_rows=16)
    wanted = score_units(model, settings, rows, 0).tensors()
    found = smoothquant.smooth(model, rows, how)
    insert_fake_quantization(model)
    with smoothquant.undone(model, found):
        told = score_units(model, settings, rows, 0).tensors()
    for name, score in wanted.items():
        assert torch.allclose(told[name], score, rtol=1e-4), name
    remove_fake_quantization(model)
    there = score_units(model, settings, rows, 0).tensors()
    assert any(not torch.allclose(there[name], score, rtol=1e-2) for name, score in wanted.items()), "it would have seen them"


def test_a_job_smooths_and_a_new_attempt_cuts_as_the_first_did(tmp_path: Path) -> None:
    write(tmp_path)
    short = {"prepare": {"epochs": 2, "rate": 1e-2}, "distill": None, "artifacts": []}
    recipe = {**RECIPE, **short, "quantize": {"smoothing": "search"}}
    report, _ = run(tmp_path, recipe)
    assert any(note.startswith("Smoothed by factors that were searched for") for note in report.rows[1].notes)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "out" / "checkpoints", kept)
    shutil.rmtree(kept / "pruned")
    shutil.rmtree(tmp_path / "out" / "artifacts")
    again, events = run(tmp_path, recipe, resume="kept")
    # Nobody asks the baseline, which is opened for its artifact alone.
    assert (tmp_path / "out" / "artifacts" / report.rows[0].artifact / "config.json").is_file()
    assert [event.stage for event in events if isinstance(event, StageStarted) and event.resumed] == ["baseline", "quantized"]
    assert scores(again) == scores(report)
    # The same cut as without: what it chooses by is undone for it.
    plain, _ = run(tmp_path, {**recipe, "quantize": {}})
    loss, other = (scores(one)["pruned"].metrics["loss"] for one in (report, plain))
    assert loss == pytest.approx(other, rel=0.02)
