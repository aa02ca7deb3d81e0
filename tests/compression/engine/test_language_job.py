"""One whole job of a language model: texts in, four rows of perplexities out, and checkpoints that stock transformers opens."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.language.windows import document_losses
from compression.engine import shipping
from compression.engine.job import Job
from compression.engine.pipeline import compress
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.scoring.perplexity import Figures, figures
from compression.schema.errors import CompressionError
from compression.schema.events import Log, StageStarted, TrainingSaved
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Targets
from compression.schema.report.measurements import Score
from compression.schema.report.report import Report
from tests.support import engine_jobs
from tests.support.measuring import briefly
from tests.support.tiny_language import model, tokenizer

RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 4, "rate": 1e-2},
    "prune": {"ratio": {"ffn": 0.5, "hidden": 0.5}, "multiple": 8, "calibration_rows": 16},
    "distill": {"epochs": 4, "rate": 5e-3, "temperature": 1.0, "hidden": 0.5, "hard": 0.3},
    "train": {"batch": 4, "max_length": 48},
}


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    animals, places = ["cat", "dog", "hen", "owl"], ["mat", "roof", "road"]
    return [
        " ".join(f"the {draw.choice(animals)} sat on the {draw.choice(places)}." for _ in range(draw.randint(1, 3)))
        for _ in range(count)
    ]


def write(place: Path, family: str = "llama", *, bos: bool = True, **changes: Any) -> PreTrainedModel:
    made = model(family, **{"intermediate_size": 64, "initializer_range": 0.05, "tie_word_embeddings": True, **changes})
    made.save_pretrained(place / "model")
    tokenizer(bos=bos).save_pretrained(place / "model")
    for name, count in (("train", 160), ("test", 24)):
        lines = [json.dumps({"text": text}) for text in texts(count, seed=len(name))]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return made


def spec_of(recipe: dict[str, Any], **changes: Any) -> Spec:
    return engine_jobs.spec_of("model", task="causal-lm", recipe=recipe, **changes)


def run(place: Path, recipe: dict[str, Any] = RECIPE, **changes: Any) -> tuple[Report, list[Any]]:
    events = list(compress(spec_of(recipe, **changes), place))
    return events[-1].report, events


def scores(report: Report) -> dict[str, Score]:
    found = {row.stage: row.score for row in report.rows}
    assert all(isinstance(score, Score) for score in found.values())
    return found


def test_a_language_model_goes_through_the_whole_job(tmp_path: Path) -> None:
    write(tmp_path)
    before = perplexity(opened(tmp_path / "model"), tmp_path, tmp_path / "model")
    report, _ = run(tmp_path)
    found = scores(report)
    assert list(found) == ["baseline", "quantized", "pruned", "distilled"]
    baseline, quantized, cut, last = found.values()
    assert baseline.value < before.perplexity.value / 10
    assert quantized.worth > baseline.worth - 0.05
    assert cut.value > 1.1 * quantized.value
    assert last.value < cut.value
    for score in found.values():
        assert (score.metric, score.lower_is_better, score.rows, score.rows_changed_by_batching) == ("perplexity", True, 24, 0)
        assert score.metrics.keys() == score.standard_errors.keys()
        assert score.metrics.keys() == {"perplexity", "loss", "bits_per_byte", "next_token_accuracy"}
        assert score.value_at_batch_32 == pytest.approx(score.value, rel=1e-3)
        assert last.value < score.chance
    ratios = report.rows[-1].ratios
    assert ratios.retention == pytest.approx(baseline.value / last.value)
    shapes = [(row.shape.hidden, row.shape.groups, row.shape.heads, row.shape.ffn) for row in report.rows]
    assert shapes == [(32, 2, 4, 64), (32, 2, 4, 64), (16, 1, 2, 32), (16, 1, 2, 32)]
    assert ratios.parameter_reduction > 0.5
    assert ratios.size_reduction > 0.6
    assert report.splits["test"].tokens == sum(len(text.encode()) - 2 * text.count("the") for text in texts(24, seed=4))
    assert report.splits["test"].bytes == sum(len(text.encode()) for text in texts(24, seed=4))
    assert any("windows of 48 tokens" in note for note in report.notes)
    assert any(note.startswith("Distillation: validation perplexity") for note in report.rows[-1].notes)

    # Each stage ships an ONNX file that is timed as it generates, and the one that is named a checkpoint beside it.
    assert [one.kind for one in report.artifacts] == ["onnx"] * 4 + ["transformers"] * 2
    assert [one.precision for one in report.artifacts[-2:]] == ["int8", "bfloat16"]
    for row in report.rows:
        assert (row.latency.generation.prompt, row.artifact.split("-")[1]) == (16, "onnx")

    # The checkpoint scores what is told of it, in stock transformers and with the tokenizer beside it.
    told = report.artifacts[-2].score
    folder = tmp_path / "out" / "artifacts" / report.artifacts[-2].name
    stock = opened(folder)
    again = perplexity(stock, tmp_path, folder)
    assert again.perplexity.value == pytest.approx(told.value, rel=1e-4)
    assert again.loss.standard_error == pytest.approx(told.standard_errors["loss"], rel=2e-2)
    assert told.value == pytest.approx(found[report.artifacts[-2].stage].value, rel=5e-2)
    assert not stock.config.tie_word_embeddings
    assert stock.lm_head.weight is not stock.model.embed_tokens.weight
    asked = AutoTokenizer.from_pretrained(folder)("the ", return_tensors="pt", return_token_type_ids=False)
    said = AutoTokenizer.from_pretrained(folder).decode(stock.generate(**asked, max_new_tokens=8, do_sample=False)[0])
    assert any(animal in said for animal in ("cat", "dog", "hen", "owl"))
    assert "generate" in (folder / "README.md").read_text()

    # A new attempt that has the cut behind it makes the same of it.
    shutil.copytree(tmp_path / "out" / "checkpoints", tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept" / "distilled")
    other, events = run(tmp_path, resume="kept")
    assert [event.stage for event in events if isinstance(event, StageStarted) and event.resumed] == list(found)[:3]
    assert scores(other) == found

    a_cut_that_cost_too_much_can_still_be_taken(tmp_path)


def a_cut_that_cost_too_much_can_still_be_taken(tmp_path: Path) -> None:
    """Ship what is named though another stage is the headline."""
    shutil.copytree(tmp_path / "out" / "checkpoints", tmp_path / "whole")
    spec = spec_of(RECIPE, resume="whole")
    job = Job.open(spec, tmp_path)
    list(job.resume())
    easy = Targets(parameter_reduction=0, size_reduction=0, speed_up=1e-3, retention=0.5)
    job.spec = spec.model_copy(update={"targets": easy})
    worse = {"retention_on_validation": 0.1}
    job.rows[2:] = [row.model_copy(update={"ratios": row.ratios.model_copy(update=worse)}) for row in job.rows[2:]]
    list(job.ship_more())
    named = [(stage, precision) for stage in ("quantized", "distilled") for precision in ("int8", "bfloat16")]
    assert [(one.stage, one.precision) for one in job.artifacts[4:]] == named
    smaller = opened(tmp_path / "out" / "artifacts" / job.artifacts[-1].name)
    assert (smaller.config.hidden_size, smaller.dtype) == (16, torch.bfloat16)


def opened(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def perplexity(network: PreTrainedModel, place: Path, folder: Path) -> Figures:
    """Score a job's test texts, read by a folder's tokenizer, with the engine's own losses."""
    texts = [json.loads(line)["text"] for line in (place / "test.jsonl").read_text().splitlines()]
    return figures(document_losses(network, read(texts, AutoTokenizer.from_pretrained(folder)), length=48, stride=24))


def test_a_job_goes_on_within_a_training_by_the_teachers_kept_tokens(tmp_path: Path) -> None:
    write(tmp_path, bos=False)
    distill = {"epochs": 2, "rate": 2e-3, "hidden": 0.0, "hard": 0.0, "attention": 0.1, "kept": 8, "temperature": 1.0}
    recipe = {**RECIPE, "quantize": None, "prune": None, "prepare": {"epochs": 1, "rate": 1e-2}, "distill": distill}
    recipe |= {"train": {**RECIPE["train"], "checkpointing": "on"}, "artifacts": []}
    spec = spec_of(recipe, save_seconds=0, evaluate={"length": 16, "window": 32, "tokens": 256})
    whole: list[Any] = []
    kept = tmp_path / "kept"
    for event in compress(spec, tmp_path):
        whole.append(event)
        if isinstance(event, TrainingSaved):
            place = tmp_path / "out" / "checkpoints" / event.folder
            if event.stage == "distilled" and event.step > event.total // 2 and not kept.exists():
                shutil.copytree(tmp_path / "out" / "checkpoints", kept, ignore=shutil.ignore_patterns("training-*"))
                shutil.copytree(place, kept / "training")
            shutil.rmtree(place)
    report = whole[-1].report
    assert not any(isinstance(event, Log) and "asked again" in event.message for event in whole)
    assert "texts of test are scored" in " ".join(report.notes)
    assert any("relations of the last layers" in note for note in report.rows[-1].notes)
    assert any(isinstance(event, Log) and "attention 0." in event.message for event in whole)
    score = scores(report)["distilled"]
    assert 2 <= score.rows < 24
    again, _ = run(tmp_path, recipe, resume="kept", evaluate={"length": 16, "window": 32, "tokens": 256})
    assert scores(again)["distilled"] == score
    # Without BOS nobody is asked for a text's first token, and nothing was put there.
    folder = tmp_path / "out" / "artifacts" / "distilled-onnx-float32"
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"] == tokenizer()("a")["input_ids"]


@pytest.mark.parametrize(
    ("recipe", "evaluate_at", "param"),
    [
        ({"distill": {"attention": 1.0, "attention_by": "scores"}}, {}, "recipe.distill.attention_by"),
        ({"distill": {"general": {}, "attention_by": "scores"}}, {}, "recipe.distill.attention_by"),
        ({"prune": {"axes": ["ffn", "vocabulary"]}}, {}, "recipe.prune.axes"),
        ({}, {"metric": "f1"}, "evaluate.metric"),
        ({}, {"window": 65}, "evaluate.window"),
    ],
)
def test_what_a_language_model_cannot_have_is_refused_by_its_key(
    tmp_path: Path, recipe: dict[str, Any], evaluate_at: dict[str, Any], param: str
) -> None:
    write(tmp_path)
    with pytest.raises(CompressionError, check=lambda error: error.param == param):
        run(tmp_path, {**RECIPE, **recipe}, evaluate={"length": 16, **evaluate_at})


def test_a_model_whose_onnx_file_cannot_be_written_is_sent_in_16_bits_too_and_has_no_latency_to_aim_at(tmp_path: Path) -> None:
    write(tmp_path, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(CompressionError, match="none can be written: rotary embeddings") as caught:
        run(tmp_path, {**RECIPE, "prune": {"axes": ["ffn"], "target_latency": {"speed_up": 2}}})
    assert caught.value.param == "recipe.prune.target_latency"
    report, _ = run(tmp_path, {**RECIPE, "prepare": {"epochs": 1}, "distill": None})
    assert "There is no ONNX file, and speeds are not measured: rotary embeddings of the kind" in "".join(report.rows[0].notes)
    assert not [row for row in report.rows if "integers" in getattr(row.latency, "not_measured", "integers")]
    stages = ["baseline", "quantized", "pruned"]
    after, beside = report.artifacts[:3], report.artifacts[3:]
    assert [(one.stage, one.kind) for one in after] == [(stage, "transformers") for stage in stages]
    assert [one.precision for one in after] == ["float32", "int8", "int8"]
    named = next(one.stage for one in after if one.name == report.headline)
    assert [(one.stage, one.precision) for one in beside] == [(stage, "bfloat16") for stage in dict.fromkeys((named, "pruned"))]
    for one in beside:
        weights = load_file(tmp_path / "out" / "artifacts" / one.name / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_an_output_layer_that_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, tie_word_embeddings=False).model.save_pretrained(tmp_path / "model")
    with pytest.raises(CompressionError, match="lm_head", check=lambda error: error.code == "config_mismatch"):
        run(tmp_path)


def test_a_cut_in_steps_is_taught_by_the_whole_model_after_each(tmp_path: Path) -> None:
    write(tmp_path)
    prune = {**RECIPE["prune"], "steps": 2, "recovery": {"epochs": 4, "rate": 5e-3, "by": "teacher"}}
    report, _ = run(tmp_path, {**RECIPE, "prune": prune, "distill": None, "quantize": None})
    notes = [note for note in report.rows[-1].notes if "taught by the baseline's answers" in note]
    assert len(notes) == 2
    for note in notes:
        before, after = (float(found) for found in note.split("perplexity ")[1].split(" (")[0].split(" → "))
        assert after < before


def test_a_language_model_ships_for_other_runtimes_and_is_timed_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    write(tmp_path, bos=False)
    recipe = {**RECIPE, "prepare": {"epochs": 1}, "prune": None, "distill": None, "artifacts": ["genai", "gguf-q8-0"]}
    report, _ = run(tmp_path, recipe)
    forms = {one.kind: one for one in report.artifacts if one.kind != "onnx"}
    assert [*forms] == ["gguf-q8-0", "genai"]
    for form in forms.values():
        assert form.latency.generation.decode_per_second > 0
        assert form.validation.value == pytest.approx(report.rows[-1].validation.value, rel=0.05)
    assert forms["genai"].trained_as_shipped
    # The same file in the same ONNX Runtime, but for batches, whose rows it reads one by one.
    assert forms["genai"].score.value == pytest.approx(report.rows[-1].score.value, rel=1e-5)
