"""Each part of the bench of targets once, on tiny models: from the inputs to the record, and not again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from bench import engine, record_file
from bench.targets import auto, auto_sets, bits, decoder, milliseconds, ranks, widths
from bench.targets.jobs import prepared
from bench.targets.steps import Clock, Facts, Place, Step, run_steps
from compression.export.device_table.measuring import conditions
from compression.export.device_table.plan import quick_plan
from compression.schema.job_spec import Spec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.support import tiny_language
from tests.support.bench_engine import run_here
from tests.support.device_tables import made_table
from tests.support.image_jobs import images, onnx_folder
from tests.support.network_graphs import resnet
from tests.support.tiny_bert import sentences, tiny_config, write_rows, write_tokenizer

TINY: dict[str, Any] = {
    "prepare": Prepare(epochs=1, rate=1e-3),
    "distill": Distill(epochs=1, rate=1e-3),
    "train": Train(max_length=32, precision="float32"),
}
CUT: dict[str, Any] = {"multiple": 8, "calibration_rows": 64}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The inputs of all parts, tiny; jobs run in this process."""
    run_here(monkeypatch)
    examples, data = tmp_path / "examples", tmp_path / "data"
    torch.manual_seed(0)
    BertModel(tiny_config(max_position_embeddings=128, num_hidden_layers=1)).save_pretrained(examples / "model")
    write_tokenizer(examples / "model")
    (examples / "data").mkdir()
    for seed, (split, rows) in enumerate({"train": 160, "validation": 60, "test": 60}.items()):
        write_rows(examples / "data" / f"{split}.jsonl", sentences(rows, seed))
    return Place(examples, data, tmp_path / "runs", tmp_path / "records" / "part", threads=1)


@pytest.fixture
def device_table(place: Place) -> None:
    """Keep a made device table of this machine, as the part of milliseconds does."""
    table = made_table(conditions=conditions(1)).model_dump(mode="json")
    record_file.write(place.records.parent / "milliseconds" / "device-table.json", {"about": {}, "table": table})


def once(steps: Callable[[], Iterator[Step]], place: Place, monkeypatch: pytest.MonkeyPatch) -> dict[str, Facts]:
    """Run steps twice, the second time without an engine; return their records."""
    run_steps(steps(), place.records, Clock())
    monkeypatch.setattr(engine, "run", None)
    run_steps(steps(), place.records, Clock())
    return {path.stem: record_file.read(path) or {} for path in sorted(place.records.glob("*.json"))}


def resumed_stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return, by the name of a run's folder, the stages that it took over."""
    found, plain = dict[str, list[str]](), engine._tidy

    def tidy(folder: Path, keep: set[str] | None) -> None:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
        found[folder.name] = [one["stage"] for one in events if one["type"] == "stage_started" and one["resumed"]]
        plain(folder, keep)

    monkeypatch.setattr(engine, "_tidy", tidy)
    return found


def test_cuts_are_predicted_by_another_job_and_then_trained(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ranks.Plan(Recipe(prune=Prune(search="solver", **CUT), **TINY), reference=0.3, removed=(0.2, 0.5), rows=128)
    found = once(lambda: ranks.steps(place, plan), place, monkeypatch)
    assert [*found] == ["cut-200", "cut-500", "reference"]
    mild, deep = found["cut-200"], found["cut-500"]
    assert mild["answer"]["point"]["error"] < deep["answer"]["point"]["error"]
    assert mild["parameters"] > deep["parameters"]
    assert mild["answer"]["reached"]
    assert ranks.predict(found["reference"], 0.2).model_dump(mode="json") == mild["answer"], "it can be told from the record"
    assert any("seconds were spared" in note for note in mild["notes"]), "the tables are those of the job that predicts"
    assert not (place.folder / "ranks" / "cut-200").exists()
    assert len(ranks.table(place.records).splitlines()) >= 4


@pytest.mark.usefixtures("device_table")
def test_both_sides_are_timed_and_answer_the_same_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = TargetLatency(speed_up=1.2)
    few = Prune(search="solver", target_latency=fast, axes=("ffn",), **{**CUT, "multiple": 16})
    recipe = Recipe(prune=few, **TINY)
    plan = widths.Plan(sets=("demo",), seeds=(3,), rows={"demo": 128}, recipe=recipe)
    resumed = resumed_stages(monkeypatch)
    found = once(lambda: widths.steps(place, plan), place, monkeypatch)
    sides = found["demo-3"]["sides"]
    assert [*found, *sides] == ["demo-3", "uniform", "free"]
    assert min(found["demo-3"]["milliseconds"][name] for name in ("original", "uniform", "free")) > 0
    assert sides["free"]["answers"]["wanted"] == sides["uniform"]["answers"]["wanted"]
    assert len(sides["free"]["answers"]["after"]) == 60
    for record in sides.values():
        assert any("prune.search solver chose" in note for note in record["notes"])
    assert any("seconds were spared" in note for note in sides["free"]["notes"]), "the tables are those of the first side"
    assert resumed["demo-3-free"] == ["baseline", "quantized"], "both begin with the same tuned original"
    assert not [*(place.folder / "widths").iterdir()]
    assert "mean of 1 sets" in widths.table(place.records)


def test_both_sides_of_bits_keep_to_the_same_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Prune(search="solver", target_bytes=0.05, axes=("ffn",), **CUT)
    plan = bits.Plan(("demo",), (3,), {"demo": 128}, Recipe(quantize=Quantize(scheme="weight-only-int4"), prune=few, **TINY))
    resumed = resumed_stages(monkeypatch)
    found = once(lambda: bits.steps(place, plan), place, monkeypatch)
    sides = found["demo-3"]["sides"]
    assert [*found, *sides] == ["demo-3", "four", "mixed"]
    for record in sides.values():
        assert any("prune.search solver chose" in note for note in record["notes"])
        assert len(record["answers"]["after"]) == 60
    assert resumed["demo-3-mixed"] == ["baseline", "quantized"], "both begin with the same tuned original"
    assert not [*(place.folder / "bits").iterdir()]
    assert "mean of 1 sets" in bits.table(place.records)


def test_there_is_no_comparison_at_equal_milliseconds_without_a_device_table(place: Place) -> None:
    with pytest.raises(SystemExit, match="bench targets milliseconds first"):
        next(widths.steps(place))


def test_a_device_table_is_measured_over_several_calls(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milliseconds, "whole_plan", lambda: quick_plan()[:2])
    clock = Clock(9)
    step = next(milliseconds.steps(place))
    clock.ended = 0.0
    with pytest.raises(engine.Stopped):
        step.make(clock)
    assert (place.folder / "device-table.json").is_file()
    run_steps([step], place.records, Clock())
    table = milliseconds.kept_table(place.records)
    assert {row.operation for row in table.rows} == {"call", "linear"}


def of_images(folder: Path) -> Spec:
    """A tiny residual network with images of two classes."""
    model = onnx_folder(resnet((1, 1), 16), folder / "model")
    for seed, split in enumerate(("train", "validation", "test")):
        pixels, labels = images(48, 100 * seed)
        np.savez(folder / f"{split}.npz", image=pixels, label=np.array(labels))
    data = {"format": "npz", "splits": {split: [str(folder / f"{split}.npz")] for split in ("train", "validation", "test")}}
    recipe = {"quantize": {"scheme": "static-int8"}, "prune": {"axes": ["channels", "hidden"]}, "distill": None}
    asked = {"model": str(model), "task": "image-classification", "data": data, "recipe": recipe}
    return Spec.model_validate({**asked, "output": str(folder / "out")})


@pytest.mark.usefixtures("device_table")
@pytest.mark.parametrize("kind", ["encoder", "network"])
def test_shapes_are_predicted_and_timed(kind: str, place: Place, tmp_path: Path) -> None:
    base = tmp_path / kind
    base.mkdir()
    spec = milliseconds.spec_of(kind, place, base) if kind == "encoder" else of_images(base)
    own = Place(place.examples, place.data, place.folder, place.records.parent / "milliseconds", place.threads)
    found = milliseconds.times(spec, base, own, Clock(), count=3)
    assert found["scheme"] == ("dynamic-int8" if kind == "encoder" else "static-int8")
    assert len({str(one["shape"]) for one in found["shapes"]}) == 3
    assert all(one["predicted"] > 0 < one["milliseconds"] for one in found["shapes"])
    assert found["original_predicted"] > min(one["predicted"] for one in found["shapes"])
    record_file.write(own.records / f"{kind}.json", {**found, "others": 0.0})
    assert f"| {kind} | 3 |" in milliseconds.table(own.records)


def test_a_decoder_is_cut_by_all_sides_on_the_same_tokens(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    model = place.examples / "decoder"
    tiny_language.model("llama", intermediate_size=256, max_position_embeddings=1024).save_pretrained(model)
    tiny_language.tokenizer().save_pretrained(model)
    text = place.data / decoder.TEXT
    text.parent.mkdir(parents=True)
    text.write_text("".join(f" \n = Part {n} = \n \n" + " The cat sat on the mat .\n" * 6 for n in range(20)), "utf-8")
    plan = decoder.Plan(removed=0.1, changes={"prune": {"multiple": 8, "calibration_rows": 16}}, length=16)
    resumed = resumed_stages(monkeypatch)
    found = once(lambda: decoder.steps(place, plan), place, monkeypatch)
    assert [*found] == ["auto", "language", "solver"]
    assert resumed["solver"] == ["baseline", "quantized"]
    assert not [*(place.folder / "decoder").iterdir()]
    assert found["language"]["before"] == found["solver"]["before"] == found["auto"]["before"], "of the same windows"
    assert found["language"]["tokens"] == found["solver"]["tokens"] == found["auto"]["tokens"] > 0
    assert {one["kind"] for one in found["auto"]["sizes"]["tried"]} == {"short", "full"}
    assert all(record["parameters"]["after"] <= 0.9 * record["parameters"]["before"] for record in found.values())
    assert "nats a token (below: " in decoder.table(place.records)


def test_a_job_of_auto_leaves_what_it_tried_and_what_it_ships(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_sets, "prepare", lambda _, where: prepared(where, "demo", 128))
    tuned = {"epochs": 2, "rate": 3e-3}
    changes = {
        "prepare": tuned,
        "prune": CUT,
        "distill": {**tuned, "general": None},
        "train": {"max_length": 32, "precision": "float32"},
        "auto": {"rounds": 1, "steps": 6},
    }
    found = once(lambda: auto.steps(place, auto.Plan((("tweets", 3),), changes)), place, monkeypatch)
    (record,) = found.values()
    assert record["sizes"]["tried"], "the report has the sizes that were tried"
    assert record["gate"]["status"] in ("accept", "regression", "undecided")
    assert not auto.accepts_untested(record)
    assert len(record["answers"]["before"]) == len(record["answers"]["after"]) == 60
    assert auto.table(place.records).splitlines()[2].startswith("| tweets-3 | ")
