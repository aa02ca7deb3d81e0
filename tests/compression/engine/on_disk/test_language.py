"""Language models from file to file: experts answer in their integers; settings of generating that nobody reads are refused."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from compression.engine import shipping
from compression.engine.on_disk import backend, onnx_writer, shipping_on_disk
from compression.engine.pipeline import compress
from compression.evaluation.measure import Measured, MeasureSpec
from compression.export.onnx import decoder
from compression.modalities.text.scoring.perplexity import SHORT
from compression.quantization.fake_quantize import Simulation
from compression.schema.errors import ConfigMismatch, ExportMismatch
from compression.schema.events import StageFinished
from compression.schema.manifest import Manifest
from compression.schema.recipe.base import Task
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Latency
from compression.schema.schemes import Scheme
from compression.system.progress import Step
from tests.compression.engine.on_disk.test_backend import ONLY_QUANTIZE, done, model_into, spec_of
from tests.support import toy_tasks
from tests.support.decoder_models import saved, tiny
from tests.support.measuring import briefly
from tests.support.tiny_bert import write_tokenizer

ROOMY = 8 << 30
HEADS: dict[str, tuple[Task, Any, str]] = {
    "ForCausalLM": ("causal-lm", AutoModelForCausalLM, "perplexity"),
    "ForSequenceClassification": ("text-classification", AutoModelForSequenceClassification, "accuracy"),
    "ForQuestionAnswering": ("question-answering", AutoModelForQuestionAnswering, "f1"),
}
"""Task, class that opens it and metric."""
CUT = {"ratio": {"ffn": 0.5}, "multiple": 8, "calibration_rows": 16}


@pytest.fixture(autouse=True)
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "whole_bytes", lambda parameters: 1 << 62)


def test_experts_of_a_language_model_are_scored_and_generate_as_the_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipping_on_disk, "opened_bytes", lambda file, table: 0)
    model = model_into(tmp_path / "model", "deepseek_v3", "ForCausalLM")
    report = done(spec_of(tmp_path, model, task="causal-lm", memory_bytes=ROOMY), tmp_path)
    baseline, quantized = (row.score for row in report.rows)
    assert abs(quantized.worth - baseline.worth) < 0.05
    made = tmp_path / "out" / "artifacts" / "quantized-transformers-int8"
    told = (made / "README.md").read_text()
    assert "It reads up to" in told
    assert "trained on rows" not in told
    code = told.partition("```python\n")[2].partition("```")[0]
    assert "generate" in code
    monkeypatch.chdir(made)
    capsys.readouterr()
    exec(code, {"__name__": "card"})  # what the download tells its reader to run
    assert len(capsys.readouterr().out.split()) > 3
    assert torch.is_inference_mode_enabled() is False


def onnx_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model.onnx*")}


@pytest.mark.parametrize(
    ("kind", "head", "scheme"),
    [
        ("llama", "ForCausalLM", "dynamic-int8"),
        ("gpt2", "ForCausalLM", "dynamic-int8"),
        ("deepseek_v3", "ForCausalLM", "weight-only-int4"),
        ("qwen3", "ForSequenceClassification", "dynamic-int8"),
        ("deepseek_v3", "ForSequenceClassification", "dynamic-int8"),
        ("llama", "ForQuestionAnswering", "dynamic-int8"),
    ],
)
def test_an_onnx_file_is_as_of_memory_and_rows_are_of_it(kind: str, head: str, scheme: Scheme, tmp_path: Path) -> None:
    model, speaks = model_into(tmp_path / "model", kind, head), head == "ForCausalLM"
    quantize = {"scheme": scheme, **({"group_size": 16} if scheme == "weight-only-int4" else {})}
    task, auto, metric = HEADS[head]
    asked = {"task": task, "memory_bytes": ROOMY}
    spec = spec_of(tmp_path, model, recipe={**ONLY_QUANTIZE, "quantize": quantize, "prune": CUT}, **asked)
    if task == "question-answering":
        toy_tasks.write(task, tmp_path, 40, 12)
    report = done(spec, tmp_path)
    names = ["baseline-onnx-float32", f"quantized-onnx-{scheme[-4:]}", f"pruned-onnx-{scheme[-4:]}"]
    assert [row.artifact for row in report.rows] == names
    for row in report.rows:
        assert (row.latency.generation is not None) == speaks
        assert (row.score.metric, row.score.rows) == (metric, 12)
        assert not any(note.startswith("There is no ONNX") for note in row.notes), row.notes
    simulation = Simulation.of(Quantize.model_validate(quantize))
    cut = tmp_path / "out" / "artifacts" / "pruned-transformers-bfloat16"
    for name, place, simulated in zip(names, (model, model, cut), (None, simulation, simulation), strict=True):
        (tmp_path / name).mkdir()
        decoder.write(auto.from_pretrained(place, dtype=torch.float32), tmp_path / name, simulation=simulated)
        assert onnx_files(tmp_path / "out" / "artifacts" / name) == onnx_files(tmp_path / name)
        manifest = Manifest.model_validate_json((tmp_path / "out" / "artifacts" / name / "manifest.json").read_bytes())
        assert {"input_ids", "attention_mask"} <= {each.name for each in manifest.interface.inputs}
        assert [sizes["batch"] for sizes in manifest.interface.tested][::2] == [1, 1]
    assert "model.onnx_data" in next(each for each in report.artifacts if each.name == names[0]).opens_with


@pytest.mark.parametrize(("artifacts", "fits"), [([], True), (["onnx"], False), (["transformers"], True)])
def test_checkpoints_beside_the_rows_are_shipped_if_the_recipe_names_them(
    artifacts: list[str], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fits:
        monkeypatch.setattr(onnx_writer.Graphs, "hindrance", lambda *_: "memory is short")
    model = model_into(tmp_path / "model", "llama", "ForCausalLM")
    recipe = {**ONLY_QUANTIZE, "prune": CUT, "artifacts": artifacts}
    report = done(spec_of(tmp_path, model, task="causal-lm", recipe=recipe, memory_bytes=ROOMY), tmp_path)
    rows, found = {row.artifact for row in report.rows}, {one.name for one in report.artifacts}
    assert {name.split("-")[1] for name in rows} == {"onnx" if fits else "transformers"}
    checkpoints = {"baseline-transformers-bfloat16", "quantized-transformers-int8"}
    checkpoints |= {"pruned-transformers-int8", "pruned-transformers-bfloat16"}
    assert found - rows == (checkpoints if artifacts == ["transformers"] else set())
    assert {place.name for place in (tmp_path / "out" / "artifacts").iterdir()} == found


@pytest.mark.parametrize("head", ["ForCausalLM", "ForSequenceClassification"])
def test_a_file_that_answers_otherwise_is_not_shipped(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    well = decoder.write

    def bent(model: Any, folder: Path, *, read: Any, **more: Any) -> Any:
        def misread(name: str) -> torch.Tensor:
            found: torch.Tensor = read(name)
            return found.roll(1, 0) if name.endswith("1.mlp.up_proj.weight") else found

        return well(model, folder, read=misread, **more)

    monkeypatch.setattr(decoder, "write", bent)
    model = model_into(tmp_path / "model", head=head)
    task = "causal-lm" if head == "ForCausalLM" else "text-classification"
    with pytest.raises(ExportMismatch):
        list(compress(spec_of(tmp_path, model, task=task, memory_bytes=ROOMY), tmp_path))
    assert not (tmp_path / "out" / "artifacts" / "baseline-onnx-float32").exists()


def test_integers_whose_file_fits_without_the_baseline_s_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_into(tmp_path / "model", head="ForCausalLM")
    parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_pretrained(model).parameters())
    # A megabyte a parameter for float32, and as much left as that and a little: both at once do not fit.
    monkeypatch.setattr(onnx_writer, "OPENED", {**onnx_writer.OPENED, None: 1e6, "dynamic-int8": 1e5})
    monkeypatch.setattr(shipping_on_disk.OnDiskShipping, "left", lambda _: round(1.05e6 * parameters))
    report = done(spec_of(tmp_path, model, task="causal-lm", memory_bytes=ROOMY), tmp_path)
    assert [row.artifact for row in report.rows] == ["baseline-onnx-float32", "quantized-transformers-int8"]
    assert "quantized-onnx-int8" in {one.name for one in report.artifacts}
    assert any("tokens a second" in note for note in report.rows[1].notes)


def test_texts_without_words_are_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "whole_bytes", lambda parameters: 1 << 62)
    monkeypatch.setattr(backend, "first_rows", lambda *_: [{"text": ""}])
    model = model_into(tmp_path / "model", head="ForCausalLM")
    report = done(spec_of(tmp_path, model, task="causal-lm", memory_bytes=ROOMY), tmp_path)
    assert [row.artifact for row in report.rows] == ["baseline-onnx-float32", "quantized-onnx-int8"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_token_between_two_experts_does_not_cost_the_job(sign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    well, moved = decoder.write, list[str]()

    def nudged(model: Any, folder: Path, *, read: Any, **more: Any) -> Any:
        def near(name: str) -> torch.Tensor:
            found: torch.Tensor = read(name)
            if not name.endswith("gate.e_score_correction_bias"):
                return found
            moved.append(name)
            return found + sign * 1e-6 * torch.tensor([1.0, 0.0])

        return well(model, folder, read=near, **more)

    made = tiny("deepseek_v3", n_routed_experts=2, num_experts_per_tok=1, n_group=1, topk_group=1)
    asked = [number % made.config.vocab_size for number in range(1, SHORT + 1)]  # what is read where texts have no words
    gate, states = made.model.layers[1].mlp.gate, list[torch.Tensor]()
    with gate.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])), torch.no_grad():
        made(torch.tensor([asked]))
        scores = gate(states[0].view(-1, states[0].shape[-1])[0])[0].sigmoid().flatten()
    gate.e_score_correction_bias.copy_(torch.stack([scores[1], scores[0]]) - scores.mean())
    write_tokenizer(saved(made, tmp_path / "model"))
    monkeypatch.setattr(backend, "first_rows", lambda *_: [{"text": ""}])
    monkeypatch.setattr(decoder, "write", nudged)
    report = done(spec_of(tmp_path, tmp_path / "model", task="causal-lm", memory_bytes=ROOMY), tmp_path)
    assert moved
    assert report.rows[0].artifact == "baseline-onnx-float32"


def test_an_attempt_that_goes_on_elsewhere_times_the_same_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path, model_into(tmp_path / "model", head="ForCausalLM"), task="causal-lm", memory_bytes=ROOMY)
    for event in compress(spec, tmp_path):
        if isinstance(event, StageFinished):
            break
    (tmp_path / "out" / "checkpoints").rename(tmp_path / "kept")
    written = onnx_files(tmp_path / "out" / "artifacts" / "baseline-onnx-float32")
    shutil.rmtree(tmp_path / "out" / "artifacts")  # they went to the service's storage
    seen = list[dict[str, bytes]]()

    def watched(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Step, None, Measured]:
        if spec.baseline:
            seen.append(onnx_files(Path(spec.baseline)))
        return (yield from briefly(spec, last_try=last_try))

    monkeypatch.setattr(shipping, "measure_artifact", watched)
    report = done(spec.model_copy(update={"resume": "kept"}), tmp_path)
    assert seen == [written]
    assert isinstance(report.rows[1].latency, Latency)


@pytest.mark.parametrize("said", ["{no JSON", "[]", '{"max_new_tokens": -1}'])
def test_settings_of_generating_that_stock_code_cannot_read_are_refused_at_once(said: str, tmp_path: Path) -> None:
    model = model_into(tmp_path / "model", head="ForCausalLM")
    (model / "generation_config.json").write_text(said)
    with pytest.raises(ConfigMismatch, check=lambda error: error.param == "generation_config.json"):
        list(compress(spec_of(tmp_path, model, task="causal-lm"), tmp_path))
    assert not (tmp_path / "out" / "artifacts").exists()


def test_settings_that_stock_code_only_warns_of_are_kept(tmp_path: Path) -> None:
    model = model_into(tmp_path / "model", head="ForCausalLM")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "do_sample": False}))
    report = done(spec_of(tmp_path, model, task="causal-lm"), tmp_path)
    kept = json.loads((tmp_path / "out" / "artifacts" / report.rows[1].artifact / "generation_config.json").read_text())
    assert kept["temperature"] == 0.9
