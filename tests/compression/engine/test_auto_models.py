"""Jobs that find their size on other models than encoders: networks of images and decoders; by predicted milliseconds, on
several datasets, and paused between two rounds.
"""

from pathlib import Path
from typing import Any

import pytest

from compression.engine import shipping
from compression.engine.commands.run import PAUSED, job
from compression.engine.pipeline import compress
from compression.export.device_table.measuring import conditions
from compression.schema.events import Log, TablesSaved
from compression.schema.recipe.presets import merged, preset
from compression.schema.report.report import Report
from compression.schema.report.size_search import SizeSearch
from tests.compression.engine import test_language_job as language
from tests.compression.engine.test_decoder_job import send
from tests.compression.engine.test_multi_dataset import spec_of as several
from tests.compression.engine.test_pause import attempt
from tests.support.device_tables import made_table
from tests.support.engine_jobs import report_of, spec_of, write_spec
from tests.support.image_jobs import onnx_folder
from tests.support.image_uploads import image_splits
from tests.support.measuring import briefly
from tests.support.network_graphs import resnet
from tests.support.tiny_bert import sentences, write_rows
from tests.support.toy_tasks import write
from tests.workers.test_images import stock_folder

AUTO = {"rounds": 2, "steps": 8, "budget_minutes": 600}
TEXT: dict[str, Any] = {
    "prepare": {"epochs": 3, "rate": 1e-2},
    "prune": {"multiple": 8, "calibration_rows": 32},
    "distill": {"epochs": 1, "rate": 3e-3, "general": None},
    "train": {"batch": 16, "max_length": 32},
    "auto": AUTO,
    "artifacts": [],
}
IMAGES: dict[str, Any] = {
    "prepare": {"epochs": 4, "rate": 5e-3},
    "quantize": {"calibration_rows": 32},
    "prune": {"multiple": 1, "calibration_rows": 32},
    "distill": {"epochs": 2, "rate": 5e-3},
    "train": {"batch": 16},
    "auto": AUTO,
}
"""What a test changes of the preset `auto`: fewer epochs and rows, not a part less but the general phase of texts."""
TARGETS = {"retention": 0.8}


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)


def check(sizes: SizeSearch | None, report: Report, part: str = "") -> None:
    """Check that sizes were tried, each once, and that the row is of the one that goes on. part: of several datasets."""
    assert [row.stage for row in report.rows] == ["baseline", "quantized", "pruned", "distilled"]
    assert sizes is not None
    first, last = (row.parts[part] if part else row for row in (report.rows[0], report.rows[-1]))
    short, full = ([one for one in sizes.tried if one.kind == kind] for kind in ("short", "full"))
    assert 1 <= len(short) <= 2
    assert all(one.kept is not None and one.seconds > 0 for one in sizes.tried)
    assert all(one.expected is not None for one in short)
    (chosen,) = [one for one in full if one.chosen]
    assert chosen.parameters == last.parameters.total
    if last.shape.widths is None or last.shape.layers == first.shape.layers:
        assert chosen.shape == last.shape
    assert last.parameters.total < first.parameters.total == sizes.whole
    for each in (short, full):
        assert len({(one.shape, one.layers) for one in each}) == len(each)
    assert last.gate is not None
    assert sizes.why in last.notes


def send_images(place: Path) -> dict[str, Any]:
    for name, content in image_splits().items():
        (place / name).write_bytes(content)
    return {"format": "npz", "splits": {name: [f"{name}.npz"] for name in ("train", "validation", "test")}}


def write_table(place: Path) -> list[str]:
    (place / "table.json").write_text(made_table(conditions=conditions(1)).model_dump_json())
    return ["table.json"]


def of_images(place: Path, prune: dict[str, Any], **auto: Any) -> Report:
    changes = {**IMAGES, "prune": {**IMAGES["prune"], **prune}, "auto": {**AUTO, **auto}}
    own = {"task": "image-classification", "data": send_images(place), "evaluate": {}, "device_tables": write_table(place)}
    recipe = merged(preset("auto", "image-classification"), changes)
    return report_of(compress(spec_of("sent", recipe=recipe, targets=TARGETS, **own), place))


def test_a_stock_network_of_images(tmp_path: Path) -> None:
    stock_folder("resnet", tmp_path / "sent")
    report = of_images(tmp_path, {})
    check(report.sizes, report)


def test_a_network_from_an_onnx_file_by_milliseconds_and_with_blocks(tmp_path: Path) -> None:
    onnx_folder(resnet((2, 2), 8), tmp_path / "sent")
    report = of_images(tmp_path, {"axes": ["channels", "layers"], "ratio": 0.6}, objective="latency")
    check(report.sizes, report)
    assert len(report.sizes.tried[0].layers) < report.rows[0].shape.layers, "otherwise a part is not shown"
    assert "of the predicted milliseconds" in report.sizes.why


def test_an_encoder_by_milliseconds(tmp_path: Path, shallow: Path, reviews: Path) -> None:
    recipe = merged(preset("auto", "text-classification"), {**TEXT, "auto": {**AUTO, "objective": "latency"}})
    spec = spec_of(shallow, reviews, recipe=recipe, targets=TARGETS, device_tables=write_table(tmp_path))
    report = report_of(compress(spec, tmp_path))
    check(report.sizes, report)
    assert (report.sizes.objective, report.sizes.tried[0].cost > 0) == ("latency", True)


def test_a_decoder_that_classifies_with_layers_and_tokens_as_axes(tmp_path: Path, reviews: Path) -> None:
    send(tmp_path / "model", "llama", tie_word_embeddings=True)
    changes = {**TEXT, "prune": {**TEXT["prune"], "axes": ["ffn", "layers", "vocabulary"]}}
    recipe = merged(preset("auto", "text-classification"), changes)
    report = report_of(compress(spec_of("model", reviews, recipe=recipe, targets=TARGETS), tmp_path))
    check(report.sizes, report)
    assert report.rows[-1].shape.layers < report.rows[0].shape.layers


def test_a_language_model(tmp_path: Path) -> None:
    language.write(tmp_path)
    changes = {**TEXT, "train": {"batch": 8, "max_length": 48}, "distill": {**TEXT["distill"], "general": {"epochs": 1}}}
    recipe = merged(preset("auto", "causal-lm"), changes)
    report = report_of(compress(spec_of("model", task="causal-lm", recipe=recipe, targets=TARGETS), tmp_path))
    check(report.sizes, report)
    assert report.sizes.original == pytest.approx(report.rows[0].validation.value, rel=0.01)  # a perplexity


def test_each_of_several_datasets_finds_its_own_size(tmp_path: Path, shallow: Path) -> None:
    for name in ("mood", "joy"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "mood" / "train.jsonl", sentences(160, seed=1))
    write_rows(tmp_path / "mood" / "test.jsonl", sentences(40, seed=2))
    write("text-regression", tmp_path / "joy", train=160, test=40)
    recipe = merged(preset("auto", "text-classification"), {**TEXT, "prepare": {"epochs": 3, "rate": 3e-3}})
    report = report_of(compress(several(tmp_path, shallow, recipe=recipe, targets=TARGETS), tmp_path))
    assert set(report.size_searches) == {"mood", "joy"}
    for part in report.parts:
        check(part.sizes, report, part.name)
        assert part.sizes.budget_minutes == 300  # each has an equal share
    assert report.gate is not None
    assert report.gate.status == "undecided", "a correlation takes 50 rows, and joy has 16"
    assert report.gate.rows_needed is None


def test_a_job_that_is_paused_between_two_rounds_does_not_repeat_the_first(
    tmp_path: Path, shallow: Path, reviews: Path
) -> None:
    recipe = merged(preset("auto", "text-classification"), {**TEXT, "prepare": {"epochs": 3, "rate": 3e-3}})
    kept, own = tmp_path / "kept", {"recipe": recipe, "targets": TARGETS}
    spec = write_spec(tmp_path / "first", shallow, reviews, **own, save_seconds=600)
    with attempt(tmp_path / "first", kept, spec) as first:
        for event in first.events():
            if isinstance(event, TablesSaved):
                first.keep("tables", "tables", event.files)
            if isinstance(event, Log) and event.message.startswith("Size 1:"):
                told = event.message
                first.ask_for_pause()
        assert first.engine.wait() == PAUSED
    seen = list(job(write_spec(tmp_path / "second", shallow, reviews, resume=str(kept), **own)))
    logged = [event.message for event in seen if isinstance(event, Log)]
    assert "Training had ended; its result is taken up." in logged
    assert told in logged
    report = seen[-1].report
    check(report.sizes, report)
    assert [one.seconds > 0 for one in report.sizes.tried if one.kind == "short"] == [True, True]
