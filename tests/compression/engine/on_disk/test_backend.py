"""A decoder that memory does not hold is quantized all the same: a whole job, its files, its figures and its reasons."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from compression.engine.job import Job
from compression.engine.on_disk import backend, onnx_writer, shipping_on_disk
from compression.engine.pipeline import compress
from compression.engine.shipping import count_flops
from compression.models.files.safetensors_header import read_header
from compression.models.validation.model import check
from compression.planning.preflight import preflight
from compression.schema.events import parse_event
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import NotMeasured
from compression.schema.report.report import Report
from tests.compression.planning.test_planning import DATA
from tests.support.decoder_models import saved, tensors_in, tiny, with_prediction
from tests.support.engine_jobs import before_of, report_of, rows_in_download, write_spec
from tests.support.gguf_files import tokens, write
from tests.support.tiny_bert import sentences, write_rows, write_tokenizer

ROOT = Path(__file__).parents[4]
ONLY_QUANTIZE: dict[str, Any] = {"prepare": {"epochs": 0}, "prune": None, "distill": None, "train": {"max_length": 32}}
SMALL = 500_000_000
"""Bytes of memory in which not even an empty process with the model's libraries would do a job."""


def model_into(folder: Path, kind: str = "llama", head: str = "ForSequenceClassification", **changes: object) -> Path:
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}, "pad_token_id": 0}
    saved(tiny(kind, head, **labels, **changes).to(torch.bfloat16), folder)
    write_tokenizer(folder)
    return folder


def spec_of(place: Path, model: Path, **changes: Any) -> Spec:
    place.mkdir(exist_ok=True)
    for name, rows in (("train", 40), ("test", 12)):
        write_rows(place / f"{name}.jsonl", sentences(rows, seed=len(name)))
    path = write_spec(place, model, place, **{"recipe": ONLY_QUANTIZE, "memory_bytes": SMALL, **changes})
    return Spec.model_validate_json(path.read_text())


def done(spec: Spec, place: Path) -> Report:
    report = report_of(compress(spec, place))
    assert json.loads((place / "out" / "report.json").read_text()) == report.model_dump(mode="json")
    return report


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_model_beyond_the_limit_goes_from_file_to_file(tmp_path: Path) -> None:
    model = model_into(tmp_path / "model", "deepseek_v3")
    report = done(spec_of(tmp_path, model), tmp_path)
    assert [row.stage for row in report.rows] == ["baseline", "quantized"]
    assert [one.name for one in report.artifacts] == ["baseline-transformers-bfloat16", "quantized-transformers-int8"]
    baseline, quantized = report.rows
    made = tmp_path / "out" / "artifacts" / quantized.artifact
    assert (report.uploaded.bytes, report.uploaded.dtype) == (size_of(model), "bfloat16")
    assert (baseline.size.bytes, quantized.size.bytes) == (size_of(model), size_of(made))
    assert quantized.ratios.size_reduction_from_file == pytest.approx(1 - size_of(made) / size_of(model))
    assert quantized.ratios.size_reduction_from_float32 == pytest.approx(1 - size_of(made) / (4 * baseline.parameters.total))
    for row in report.rows:
        assert isinstance(row.score, NotMeasured)
        assert "memory" in row.score.not_measured
    assert any("bfloat16" in note for note in quantized.notes)
    opened = AutoModelForSequenceClassification.from_pretrained(made).eval()
    original = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    assert opened.config.id2label == {0: "negative", 1: "positive"}
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(opened(ids).logits, original(ids).logits, atol=0.1 * float(original(ids).logits.abs().max()))
    listed = {file["path"] for file in json.loads((made / "manifest.json").read_text())["files"]}
    assert {"README.md", "config.json", "tokenizer.json"} <= listed
    assert not (tmp_path / "out" / "scratch").exists()
    for count, one in enumerate(report.artifacts, 1):
        before = before_of(tmp_path / "out", one.name)
        assert before.rows == rows_in_download(report, count)
        assert (before.artifact, before.figures.size) == (one.name, report.rows[count - 1].size)
    assert f"| bytes of weights on disk | {size_of(model):,} | {size_of(made):,} |" in (made / "README.md").read_text()


def test_an_artifact_most_of_which_is_floating_point_is_not_called_int8(tmp_path: Path) -> None:
    report = done(spec_of(tmp_path, model_into(tmp_path / "model", "gpt2")), tmp_path)
    (made,) = (one for one in report.artifacts if one.stage == "quantized")
    assert (made.name, made.precision) == ("quantized-transformers-mixed", "mixed")
    stays = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128)  # two layers
    assert report.rows[1].size.dtype == f"int8, {stays:,} parameters bfloat16"
    card = (tmp_path / "out" / "artifacts" / made.name / "README.md").read_text()
    assert f"But {stays:,} parameters bfloat16 are matrices that stayed in floating point." in card
    assert made.opens_with.endswith("with torchao installed")


def test_a_gguf_file_s_integers_are_scored_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", vocab_size=len(tokens()))
    (tmp_path / "model").mkdir()
    file = write(model, tmp_path / "model" / "tiny.gguf")
    parameters = sum(weight.numel() for weight in model.parameters())
    monkeypatch.setattr(backend, "whole_bytes", lambda parameters: 1 << 62)
    monkeypatch.setattr(shipping_on_disk, "opened_bytes", lambda file, table: 0 if file < 2 * parameters else 1 << 62)
    monkeypatch.setattr(onnx_writer, "OPENED", {**onnx_writer.OPENED, None: 1e18})
    # As the preset for language models has it: no search where it could not be made, and a word on that.
    recipe = {**ONLY_QUANTIZE, "quantize": {"smoothing": "search"}}
    report = done(spec_of(tmp_path, tmp_path / "model", task="causal-lm", memory_bytes=8 << 30, recipe=recipe), tmp_path)
    baseline, quantized = report.rows
    assert any(note.startswith("Nothing was smoothed") for note in quantized.notes)
    assert (report.uploaded.bytes, report.uploaded.dtype) == (file.stat().st_size, "Q8_0")
    assert baseline.artifact == "baseline-transformers-float32"  # unpacked: stock code opens it so
    assert baseline.parameters.total == parameters
    made = tmp_path / "out" / "artifacts" / quantized.artifact
    assert quantized.ratios.size_reduction_from_file == pytest.approx(1 - size_of(made) / file.stat().st_size)
    assert isinstance(baseline.score, NotMeasured)
    assert (quantized.score.metric, quantized.score.rows) == ("perplexity", 12)
    assert 1 < quantized.score.value < 10 * len(tokens())
    assert isinstance(quantized.peak_memory_bytes, int)
    # Integers fit where float32 does not: their file is there, and is held against nothing.
    assert [one.name for one in report.artifacts if one.kind == "onnx"] == ["quantized-onnx-int8"]
    assert isinstance(quantized.latency, NotMeasured)
    assert any("tokens a second" in note and "no float32 file" in note for note in quantized.notes)
    assert any(note.startswith("There is no ONNX artifact of this stage") and "memory" in note for note in baseline.notes)


@pytest.mark.parametrize("memory", [SMALL, None])
def test_layers_that_predict_several_tokens_are_in_no_result(memory: int | None, tmp_path: Path) -> None:
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}, "pad_token_id": 0}
    model = tiny("deepseek_v3", "ForSequenceClassification", **labels)
    saved(model, tmp_path / "model", largest=10**9)
    write_tokenizer(tmp_path / "model")
    assert all("layers.2." in name for name in with_prediction(tmp_path / "model"))
    report = done(spec_of(tmp_path, tmp_path / "model", memory_bytes=memory), tmp_path)
    assert {row.parameters.total for row in report.rows} == {sum(weight.numel() for weight in model.parameters())}
    # From file to file, the baseline is the checkpoint as it was sent.
    checked = [one.name for one in report.artifacts if memory is None or one.stage != "baseline"]
    files = [file for name in checked for file in (tmp_path / "out" / "artifacts" / name).glob("*.safetensors")]
    assert files
    for file in files:
        assert not [tensor.name for tensor in read_header(file) if "layers.2." in tensor.name]


@pytest.mark.parametrize(("kind", "task"), [("mistral", "causal-lm"), ("deepseek_v2", "text-classification")])
def test_it_is_cut_without_training(kind: str, task: str, tmp_path: Path) -> None:
    head, auto = "ForCausalLM", AutoModelForCausalLM
    if task == "text-classification":
        head, auto = "ForSequenceClassification", AutoModelForSequenceClassification
    model = model_into(tmp_path / "model", kind, head)
    prune = {"ratio": {"ffn": 0.5, "hidden": 0.5, "heads": 0.5}, "multiple": 8, "calibration_rows": 16}
    report = done(spec_of(tmp_path, model, task=task, recipe={**ONLY_QUANTIZE, "prune": prune}), tmp_path)
    assert [row.stage for row in report.rows] == ["baseline", "quantized", "pruned"]
    before, _, after = report.rows
    assert (after.shape.hidden, after.shape.heads, after.shape.ffn) == (16, 2, 32)
    assert report.pruning["ffn"] == {"before": 64, "after": 32, "asked": 0.5, "taken": 0.5, "multiple": 8}
    assert after.parameters.total < 0.7 * before.parameters.total
    assert after.artifact == "pruned-transformers-int8"
    assert {one.name for one in report.artifacts if one.stage == "pruned"} == {after.artifact, "pruned-transformers-bfloat16"}
    for one in report.artifacts:
        if one.stage == "pruned":  # both forms: the row is of one of them
            assert before_of(tmp_path / "out", one.name).rows == rows_in_download(report, 3)
    places = [tmp_path / "out" / "artifacts" / f"pruned-transformers-{kind}" for kind in ("int8", "bfloat16")]
    quantized, plain = (auto.from_pretrained(place).eval() for place in places)
    assert sum(weight.numel() for weight in plain.parameters()) == after.parameters.total
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        one, other = quantized(ids).logits, plain(ids).logits.float()
    assert torch.allclose(one, other, atol=0.1 * float(other.abs().max()))


def test_a_target_of_multiply_adds_is_met_from_file_to_file(tmp_path: Path) -> None:
    model, length = model_into(tmp_path / "model", "llama"), 24
    prune = {"target_flops": 0.4, "multiple": 8, "calibration_rows": 16}
    changes = {"recipe": {**ONLY_QUANTIZE, "prune": prune}, "evaluate": {"length": length}}
    report = done(spec_of(tmp_path, model, **changes), tmp_path)
    places = (model, tmp_path / "out" / "artifacts" / "pruned-transformers-bfloat16")
    whole, cut = (AutoModelForSequenceClassification.from_pretrained(place).float().eval() for place in places)
    before, after = (count_flops(one, Evaluate(length=length), "text-classification") for one in (whole, cut))
    assert before is not None
    assert after is not None
    assert 0.3 * before < after <= 0.61 * before, "rotations of positions are counted by torch alone"
    assert report.rows[-1].shape.hidden == cut.config.hidden_size < whole.config.hidden_size


@pytest.mark.parametrize("form", ["float32", "GGUF"])
def test_what_was_sent_in_more_bits_is_cut_to_16_and_its_integers_are_of_all_of_them(form: str, tmp_path: Path) -> None:
    model = tiny("llama", vocab_size=len(tokens()))
    if form == "float32":
        write_tokenizer(saved(model, tmp_path / "model"))
    else:
        (tmp_path / "model").mkdir()
        write(model, tmp_path / "model" / "tiny.gguf")
    prune = {"ratio": {"ffn": 0.5}, "multiple": 8, "calibration_rows": 16}
    report = done(spec_of(tmp_path, tmp_path / "model", task="causal-lm", recipe={**ONLY_QUANTIZE, "prune": prune}), tmp_path)
    made = {one.precision: tmp_path / "out" / "artifacts" / one.name for one in report.artifacts if one.stage == "pruned"}
    assert made.keys() == {"int8", "bfloat16"}
    half, integers = (tensors_in(made[kind]) for kind in ("bfloat16", "int8"))
    assert {value.dtype for value in half.values()} == {torch.bfloat16}
    assert json.loads((made["bfloat16"] / "config.json").read_text())["dtype"] == "bfloat16"
    assert size_of(made["bfloat16"]) < 0.6 * size_of(tmp_path / "out" / "artifacts" / report.rows[0].artifact)
    norm = integers["model.norm.weight"]
    assert norm.equal(model.model.norm.weight)
    assert not norm.equal(half["model.norm.weight"].float())
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.mark.parametrize("form", ["bare", "GGUF"])
def test_a_head_that_has_to_be_drawn_needs_the_model_in_memory_as_the_preflight_says(form: str, tmp_path: Path) -> None:
    if form == "bare":
        model_into(tmp_path / "model", head="Model")
    else:
        (tmp_path / "model").mkdir()
        write(tiny("llama", vocab_size=len(tokens())), tmp_path / "model" / "tiny.gguf")
    spec = spec_of(tmp_path, tmp_path / "model")
    facts = check(tmp_path / "model")
    plan = preflight(facts, DATA, spec.recipe, spec.evaluate)
    assert plan.estimate.memory_bytes > SMALL
    assert any("its head stays as it was drawn" in warning for warning in plan.warnings)
    assert not any("from file to file" in warning for warning in plan.warnings)
    assert not backend.fits_on_disk_only(spec, tmp_path)
    assert not backend.fits_on_disk_only(spec.model_copy(update={"split_batches": 4}), tmp_path)
    assert Job.open(spec, tmp_path).part.state.model.config.num_labels == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_bytes": None},  # nobody watches
        {"memory_bytes": 1 << 40},
        {"recipe": {**ONLY_QUANTIZE, "prepare": {"epochs": 1}}},
        {"recipe": {**ONLY_QUANTIZE, "quantize": {"scheme": "static-int8"}}},
        {"recipe": {**ONLY_QUANTIZE, "prune": {"recovery": {"epochs": 1}}}},
        {"recipe": {**ONLY_QUANTIZE, "prune": {"reconstruct": True}}},
        {"recipe": {**ONLY_QUANTIZE, "prune": {"multiple": "auto", "recovery": None}}},
        {"recipe": {**ONLY_QUANTIZE, "prune": {"multiple": 8, "recovery": None}}, "resolved": {"multiple": 8}},  # it was auto
    ],
)
def test_what_fits_or_asks_for_more_has_its_model_in_memory(changes: dict[str, Any], tmp_path: Path) -> None:
    model = model_into(tmp_path / "model")
    assert backend.fits_on_disk_only(spec_of(tmp_path, model), tmp_path)
    assert not backend.fits_on_disk_only(spec_of(tmp_path, model, **changes), tmp_path)


def test_an_attempt_that_memory_did_not_suffice_for_is_followed_by_one_from_file_to_file(tmp_path: Path) -> None:
    model = model_into(tmp_path / "model")
    assert not backend.fits_on_disk_only(spec_of(tmp_path, model, memory_bytes=1 << 40), tmp_path)
    assert backend.fits_on_disk_only(spec_of(tmp_path, model, memory_bytes=1 << 40, split_batches=4), tmp_path)


LIMITED = """
import json, os, resource, sys
from pathlib import Path
import torch, transformers
from compression.engine.commands import run
from compression.system.memory import resident
torch.set_num_threads(1)

def limited(place, room):
    warm, spec = place / "warm" / "spec.json", place / "spec.json"
    sys.stderr = (place / "errors").open("w", buffering=1)
    assert run.main(warm, os.open(os.devnull, os.O_WRONLY)) == 0  # what the libraries allocate once
    held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
    asked = json.loads(spec.read_text())
    spec.write_text(json.dumps({**asked, "memory_bytes": resident() + room}))
    code = run.main(spec, os.open(place / "events", os.O_WRONLY | os.O_CREAT))
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(asked["model"])
    except (RuntimeError, MemoryError, OSError) as problem:
        print("refused", type(problem).__name__, file=sys.stderr)
    else:
        print("opened", sum(weight.sum() for weight in model.parameters()), file=sys.stderr)
    return code

for line in sys.stdin:
    place, room = json.loads(line)
    if (job := os.fork()) == 0:
        os._exit(limited(Path(place), room))
    sys.stdout.write(f"{os.waitpid(job, 0)[1]}\\n")
    sys.stdout.flush()
"""
"""Does each job in a process of its own, which has the libraries and no more memory than it is given."""


@pytest.fixture(scope="module")
def limited() -> Iterator["subprocess.Popen[str]"]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LIMITED], text=True, env=environment, **pipes) as child:
        yield child
        child.stdin.close()


def under_limit(limited: "subprocess.Popen[str]", model: Path, room: int, place: Path, recipe: dict[str, Any]) -> Report:
    """Do a job in a process that the kernel gives `room` bytes beyond what its libraries took in a job on a tiny model."""
    spec_of(place / "warm", model_into(place / "tiny"), recipe=recipe)
    spec_of(place, model, recipe=recipe)
    limited.stdin.write(json.dumps([str(place), room]) + "\n")
    limited.stdin.flush()
    code, said = limited.stdout.readline(), (place / "errors").read_text()
    assert "refused" in said, said[-2000:]
    told = (place / "events").read_text().splitlines()
    assert int(code) == 0, said[-2000:] + "".join(told)[-2000:]
    report = parse_event.validate_json(told[-1]).report
    assert all(isinstance(row.score, NotMeasured) for row in report.rows)
    return report


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_model_three_times_the_memory_is_quantized_under_a_real_limit(
    limited: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    room = 40 << 20
    model = model_into(tmp_path / "model", vocab_size=1 << 20, hidden_size=64, head_dim=16)
    assert size_of(model) > 3 * room
    report = under_limit(limited, model, room, tmp_path, ONLY_QUANTIZE)
    assert size_of(tmp_path / "out" / "artifacts" / report.rows[1].artifact) < 0.6 * size_of(model)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_model_three_times_the_memory_is_cut_under_a_real_limit(limited: "subprocess.Popen[str]", tmp_path: Path) -> None:
    # Two layers take half of it; how the allocator lays out what it has freed differs from run to run.
    room = 76 << 20
    widths = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "head_dim": 64}
    model = model_into(tmp_path / "model", num_hidden_layers=32, **widths)
    assert size_of(model) > 3 * room
    prune = {"ratio": {"ffn": 0.5, "heads": 0.5}, "multiple": 8, "calibration_rows": 16}
    report = under_limit(limited, model, room, tmp_path, {**ONLY_QUANTIZE, "prune": prune})
    assert [row.stage for row in report.rows] == ["baseline", "quantized", "pruned"]
    assert report.rows[2].shape.ffn == 1024
    cut = next(one for one in report.artifacts if one.stage == "pruned" and one.precision == "bfloat16")
    assert size_of(tmp_path / "out" / "artifacts" / cut.name) < 0.6 * size_of(model)
