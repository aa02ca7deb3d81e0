"""Answers under an emulated AVX2: portable files answer alike, full-range files do not, and what was not compared says why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes import standalone
from compression.evaluation.runtimes.onnx import has_vnni
from compression.export import instruction_sets
from compression.export.onnx import decoder
from compression.export.onnx.exporter import write_onnx
from compression.modalities.text.inputs import Batch
from compression.models.linear_layers import is_linear
from compression.quantization import calibration
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.report import Artifact
from tests.support import decoder_models as decoders
from tests.support.cards import ARTIFACT, card_of
from tests.support.network_files import integer_file, is_depthwise, pixels, simulated
from tests.support.network_graphs import mobilenet_v2
from tests.support.network_models import drawn_network
from tests.support.tiny_bert import WORDS, encoded, sentences, tiny_config

WITHOUT = instruction_sets.hindrance()
SECONDS = 120.0
SHOWN = ComparedAnswers(
    instruction_set="AVX2", emulator="qemu-x86_64 -cpu Haswell", rows=32, answers=32, changed=0, largest_difference=0.0
)


def written(folder: Path, simulation: Simulation) -> Path:
    """Write a file whose sums of two products are large: its weights are nearly all of one size."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=3)).eval()
    with torch.no_grad():
        for _, layer in quantizable(model):
            if is_linear(layer):
                layer.weight.copy_(0.1 * layer.weight.sign())
    insert_fake_quantization(model, simulation=simulation)
    folder.mkdir()
    return write_onnx(model, folder, int8=True)


def rows(count: int = 6, length: int = 9) -> list[Batch]:
    ids = np.random.default_rng(0).integers(5, len(WORDS), (count, length))
    return [Batch(row[None], np.ones_like(row)[None], np.zeros_like(row)[None]) for row in ids]


@pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
def test_a_portable_file_answers_alike_under_avx2_and_one_of_full_range_does_not(tmp_path: Path) -> None:
    found = {}
    for portable in (True, False):
        simulation = Simulation(portable=portable)
        folder = written(tmp_path / str(portable), simulation).parent
        # Of at most 16 tokens softmax is the same too, so that what differs is products that saturate.
        compared = instruction_sets.compare(folder, rows(length=24 if portable else 9), simulation, SECONDS)
        assert (compared.rows, compared.answers, compared.instruction_set) == (6, 6, "AVX2")
        found[portable] = compared
    assert found[True].equal
    assert found[True].largest_difference == 0.0
    # A processor without VNNI is told to multiply exactly (evaluation/runtimes/onnx.py), as the emulated one is.
    assert found[False].largest_difference > 1e-4 or not has_vnni()


@pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
@pytest.mark.parametrize("kind", ["llama", "gpt2", "deepseek_v2", "static-int8"])
def test_portable_files_of_other_kinds_come_to_the_same_bits_under_avx2(kind: str, tmp_path: Path) -> None:
    if kind == "static-int8":
        model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
        settings = Quantize(scheme="static-int8")
        calibration.calibrate(model, encoded(sentences(64, 1)), settings)
        insert_fake_quantization(model, simulation=Simulation.of(settings))
        path = write_onnx(model, tmp_path, int8=True)
        feeds = [instruction_sets.feeds_of(batch) for batch in rows(length=30)]
    else:
        path = decoder.write(decoders.tiny(kind), tmp_path, simulation=Simulation(portable=True))[0]
        ids = np.random.default_rng(0).integers(1, decoders.VOCABULARY, (2, 30))
        places = np.tile(np.arange(30), (2, 1))
        feeds = [{"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": places}]
    there = instruction_sets.emulated(path, feeds, SECONDS)
    assert instruction_sets.differences(standalone.answer(str(path), feeds), there)[2] == 0.0


@pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
def test_depthwise_weights_of_the_full_range_come_to_the_same_bits_under_avx2(tmp_path: Path) -> None:
    model = drawn_network(mobilenet_v2())
    with torch.no_grad():
        for layer in filter(is_depthwise, model.modules()):
            layer.weight.fill_(0.1)
    images = pixels(model, 6)
    path = tmp_path / "model.onnx"
    onnx.save(integer_file(simulated(model, "static-int8", images)), path)
    feeds = [{"pixel_values": images.numpy()}]
    there = instruction_sets.emulated(path, feeds, SECONDS)
    assert instruction_sets.differences(standalone.answer(str(path), feeds), there)[2] == 0.0


@pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
def test_rows_that_take_too_long_are_not_compared(tmp_path: Path) -> None:
    told = instruction_sets.compare(written(tmp_path / "file", Simulation()).parent, rows(), Simulation(), 0.01)
    assert "within 0.01 s" in told.not_compared


def test_what_is_not_asked_for_or_cannot_be_had_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = instruction_sets.compare(tmp_path, rows(), Simulation(), None)
    assert "LATHE_EMULATE_SECONDS" in told.not_compared
    monkeypatch.setenv("PATH", str(tmp_path))
    instruction_sets.hindrance.cache_clear()
    try:
        told = instruction_sets.compare(tmp_path, rows(), Simulation(), SECONDS)
    finally:
        instruction_sets.hindrance.cache_clear()
    assert "qemu-user is not installed" in told.not_compared or "this machine is" in told.not_compared


def test_answers_are_read_back_as_they_were_and_end_with_the_time(tmp_path: Path) -> None:
    path = written(tmp_path / "file", Simulation())
    feeds = [instruction_sets.feeds_of(batch) for batch in rows()]
    standalone.write(str(tmp_path / "feeds.npz"), feeds)
    again = standalone.read(str(tmp_path / "feeds.npz"))
    first, second = standalone.answer(str(path), feeds), standalone.answer(str(path), again)
    assert instruction_sets.differences(first, second) == (6, 0, 0.0)
    assert len(standalone.answer(str(path), feeds, seconds=0.0)) == 1


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        ([[0.1, 0.2]], [[0.3, 0.2]], 1),  # a class
        ([[2.0]], [[2.001]], 0),  # a number
        ([[2.0]], [[2.1]], 1),
        ([[[0.0, 1.0], [1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]], 1),  # tags
    ],
)
def test_what_counts_as_another_answer(one: list[object], other: list[object], changed: int) -> None:
    found = instruction_sets.differences([{"logits": np.array(one)}], [{"logits": np.array(other)}])
    assert found[:2] == (np.array(one).shape[1] if np.ndim(one) == 3 else 1, changed)
    assert found[2] == pytest.approx(float(np.abs(np.array(one) - np.array(other)).max()))


def test_a_number_near_zero_is_held_against_the_largest_of_all_rows() -> None:
    one, other = ([{"logits": np.array([[value]])} for value in values] for values in ((0.001, 4.8), (0.00102, 4.8)))
    assert instruction_sets.differences(one, other)[:2] == (2, 0)


def said(compared: ComparedAnswers | NotCompared | None) -> str:
    return card_of(compared_on=compared).render()


def test_a_card_and_a_row_tell_where_answers_differ_and_what_to_do() -> None:
    differs = SHOWN.model_copy(update={"changed": 2, "remedy": instruction_sets.FULL_RANGE})
    assert "all the same" in said(SHOWN)
    assert instruction_sets.difference_note(SHOWN) is None
    assert "**2 of 32 differ.**" in said(differs)
    assert "x64quantprecision" in instruction_sets.difference_note(differs)
    assert "not compared: qemu-user is not installed" in said(NotCompared(not_compared="qemu-user is not installed"))
    assert "sample rows" not in said(None)


def test_a_report_of_before_reads_as_not_compared() -> None:
    old = ARTIFACT.model_dump(mode="json", exclude={"compared_on"})
    assert Artifact.model_validate(old).compared_on is None
    kept = Artifact.model_validate({**old, "compared_on": SHOWN.model_dump()})
    assert Artifact.model_validate_json(kept.model_dump_json()).compared_on == SHOWN
