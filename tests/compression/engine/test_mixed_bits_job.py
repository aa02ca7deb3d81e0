"""Jobs whose search chooses each layer's bits: what ships has them, and an attempt that goes on keeps them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from compression.engine.pipeline import compress
from compression.engine.stages.error_weights import reference_of
from compression.models.architectures.pruning_groups import layer_number
from compression.planning.search.problem import Choice
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from compression.schema.events import Event, StageStarted
from compression.schema.report.report import Report
from tests.support.attempts import UNSAVED, attempt
from tests.support.engine_jobs import RECIPE, report_of, spec_of, write_spec
from tests.support.tiny_bert import tiny_config

CUT = {"search": "solver", "target_bytes": 18_000, "mixed_bits": True, "multiple": 8, "calibration_rows": 64}
MIXED: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 3, "rate": 3e-3},
    "quantize": {"scheme": "weight-only-int4"},
    "prune": CUT,
    "distill": {"epochs": 2, "rate": 3e-3},
    "artifacts": ["transformers"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path) -> tuple[Report, list[Event], Path]:
    place = tmp_path_factory.mktemp("whole")
    seen = list(compress(spec_of(encoder, reviews, recipe=MIXED), place))
    return report_of(seen), seen, place


def finer_layers(place: Path, artifact: str) -> set[int]:
    """Return the layers of which an ONNX file has matrices in 8 bits."""
    proto = onnx.load(place / "out" / "artifacts" / artifact / "model.onnx")
    names = (one.name for one in proto.graph.initializer if one.name.endswith(".weight_int8"))
    return {number for number in map(layer_number, names) if number is not None}


def test_some_layers_have_8_bits_within_the_bytes(whole: tuple[Report, list[Event], Path]) -> None:
    report, _, place = whole
    (told,) = [note for note in report.rows[2].notes if note.startswith("prune.search solver chose")]
    assert "1 of them in 8 bits" in told
    assert [str(row.size.dtype).partition(",")[0] for row in report.rows if row.size] == ["float32", "int4", "int4", "int4"]
    assert [finer_layers(place, row.artifact) != set() for row in report.rows] == [False, False, True, True]
    assert finer_layers(place, "pruned-onnx-int4") == finer_layers(place, "distilled-onnx-int4")
    assert len(finer_layers(place, "distilled-onnx-int4")) == 1
    assert [row.shape.eight_bits for row in report.rows[:2]] == [None, None]
    assert {row.shape.eight_bits for row in report.rows[2:]} == {tuple(finer_layers(place, "pruned-onnx-int4"))}
    card = (place / "out" / "artifacts" / "distilled-onnx-int4" / "README.md").read_text("utf-8")
    assert "parameters are int8 instead, with one scale an output channel" in card
    assert "stayed in floating point" not in card
    sizes = {row.stage: row.size for row in report.rows}
    assert all("parameters int8" in str(sizes[stage]) for stage in ("pruned", "distilled"))


def test_both_downloads_answer_alike_in_stock_runtimes(whole: tuple[Report, list[Event], Path]) -> None:
    place = whole[2] / "out" / "artifacts"
    ids = torch.randint(5, 40, (4, 12))
    mask = torch.ones_like(ids)
    folder = next(place.glob("*-transformers-*"))  # of the headline
    path = place / f"{folder.name.partition('-')[0]}-onnx-int4" / "model.onnx"
    file = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": torch.zeros_like(ids).numpy()}
    found = file.run(["logits"], {one.name: given[one.name] for one in file.get_inputs()})[0]
    stock = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert np.abs(stock(input_ids=ids, attention_mask=mask).logits.numpy() - found).max() < 1e-5


def test_an_attempt_that_goes_on_keeps_the_bits(
    tmp_path: Path, encoder: Path, reviews: Path, whole: tuple[Report, list[Event], Path]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    changes = {"recipe": MIXED, "save_seconds": 0}
    place = tmp_path / "killed"
    attempt(place, kept, write_spec(place, encoder, reviews, **changes), "distill")
    seen = list(compress(spec_of(encoder, reviews, **changes | UNSAVED, resume=str(kept)), tmp_path))
    resumed = [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed]
    assert resumed == ["baseline", "quantized", "pruned"]
    assert finer_layers(tmp_path, "distilled-onnx-int4") == finer_layers(whole[2], "distilled-onnx-int4")
    rows = [report_of(seen).rows[-1], whole[0].rows[-1]]
    assert rows[0].validation == rows[1].validation


def test_a_size_that_is_looked_for_within_bytes_has_bits_too(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    auto = {**MIXED, "auto": {"budget_minutes": 5, "rounds": 2, "steps": 30}, "distill": {"epochs": 1, "rate": 3e-3}}
    report = report_of(compress(spec_of(encoder, reviews, recipe=auto, targets={"retention": 0.9}), tmp_path))
    assert report.sizes is not None
    (taken,) = [one.shape for one in report.sizes.tried if one.chosen and one.kind == "full"]
    shipped = report.rows[-1].shape
    assert (shipped.hidden, shipped.ffn, shipped.eight_bits or ()) == (taken.hidden, taken.ffn, taken.eight_bits)
    assert finer_layers(tmp_path, "distilled-onnx-int4") == {*(taken.eight_bits or ())} != set()


def test_cuts_are_compared_with_the_model_in_floating_point() -> None:
    """Beside its 4 bits a layer seems to lose by 8; beside its own weights it gains."""
    model = BertForSequenceClassification(tiny_config(num_labels=2, hidden_size=48, intermediate_size=80)).eval()
    given = {"input_ids": torch.randint(5, 40, (4, 12))}
    with torch.no_grad():
        real = model(**given).logits
        insert_fake_quantization(model, simulation=Simulation(scheme="weight-only-int4", group_size=32))
        rounded, before = model(**given).logits, simulation_of(model)
        for bits, wanted in (((Choice("bits 0", 2),), real), ((), rounded)):
            space: Any = SimpleNamespace(bit_choices=bits)
            with reference_of(space, model):
                assert torch.equal(model(**given).logits, wanted)
            assert simulation_of(model) == before
            assert torch.equal(model(**given).logits, rounded)
