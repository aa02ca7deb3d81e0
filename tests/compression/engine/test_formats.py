"""A job whose model rounds each row by its own range ships a form with calibrated ranges too."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from compression.engine import shipping
from compression.engine.commands.run import job
from compression.engine.job import Job
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.export.openvino.exporter import INT8
from compression.quantization.fake_quantize import input_ranges, insert_fake_quantization
from compression.quantization.static_int8 import Range
from compression.schema.report.measurements import Latency
from tests.compression.engine.test_smaller_job import write_model
from tests.support.engine_jobs import report_of, spec_of, write_spec
from tests.support.measuring import briefly
from tests.support.verdict_rows import BASELINE

RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 1, "rate": 3e-3},
    "quantize": {"calibration_rows": 32},
    "prune": None,
    "distill": None,
    "train": {"batch": 16, "max_length": 32},
    "artifacts": ["openvino-int8"],
}


def test_the_result_ships_in_openvino_s_integers_with_ranges_of_its_rows(
    tmp_path: Path, encoder: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    report = report_of(job(write_spec(tmp_path, encoder, reviews, recipe=RECIPE)))
    (made,) = [one for one in report.artifacts if one.kind == "openvino-int8"]
    assert (made.stage, made.precision, made.trained_as_shipped) == ("quantized", "int8", False)
    assert made.score.value == pytest.approx(report.rows[-1].score.value, abs=0.1)
    assert isinstance(made.latency, Latency)


def test_a_stage_s_model_is_calibrated_on_rows_of_train_as_it_reads_them(tmp_path: Path, reviews: Path) -> None:
    write_model(tmp_path / "model")
    recipe = {**RECIPE, "prune": {"axes": ["vocabulary"]}}
    part = Job.open(spec_of("model", reviews, recipe=recipe), tmp_path).part
    part.rows = [BASELINE]

    def ranges(model: PreTrainedModel, stage: str) -> dict[str, Range]:
        return input_ranges(INT8.prepared(model, part.request(model, stage, "openvino-int8", 32).calibrate))

    whole = part.state.model
    insert_fake_quantization(whole)
    before = ranges(whole, "quantized")
    reduce_vocabulary(part.state)
    assert part.state.model.config.vocab_size < whole.config.vocab_size
    # The job's rows have the tokens of the smaller vocabulary by now, and both models answer alike.
    assert ranges(whole, "quantized") == before
    assert ranges(part.state.model, "pruned") == before
    assert before
