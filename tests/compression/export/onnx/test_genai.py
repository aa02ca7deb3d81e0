"""A folder for onnxruntime-genai generates in a clean process as the engine's model does, and is scored and timed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from compression.engine import shipping
from compression.evaluation.runtimes import genai as runtime
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS
from compression.export.manifest import write_config
from compression.export.onnx.genai import EXPORTER
from compression.export.parity_check import verify
from compression.modalities.registry import scorer_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Latency
from tests.support.cards import card_of
from tests.support.clean_environment import INSTALLS, link_packages
from tests.support.decoder_models import tiny
from tests.support.gguf_models import byte_pairs, decoder
from tests.support.measuring import briefly
from tests.support.shipments import shipped

ROWS = [{"text": "The job is a recipe, 12 files and a model that it's made of."}, {"text": "No row is lost in 2026."}]
PROMPTS, NEW = 20, 8
SCHEMES = {
    "float32": None,
    "dynamic-int8": Simulation(scheme="dynamic-int8", portable=True),
    "saturating": Simulation(scheme="dynamic-int8"),
    "weight-only-int4": Simulation(scheme="weight-only-int4", group_size=32),
}
GENERATE = f"""
import json, sys
import onnxruntime_genai
model = onnxruntime_genai.Model(".")
for prompt in json.load(sys.stdin):
    settings = onnxruntime_genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(prompt) + {NEW})
    generator = onnxruntime_genai.Generator(model, settings)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps(generator.get_sequence(0)[len(prompt):].tolist()))
assert not {{"torch", "transformers", "compression"}} & sys.modules.keys()
"""


def simulated(family: str, scheme: str, **changes: Any) -> tuple[PreTrainedModel, str]:
    """Return a model of a scheme, and the precision of its file."""
    model, simulation = decoder(family, **changes), SCHEMES[scheme]
    if simulation is not None:
        insert_fake_quantization(model, simulation=simulation)
    return model, EXPORTER.precision_of(None if simulation is None else simulation.scheme, model)


def written(model: PreTrainedModel, precision: Any, folder: Path) -> Path:
    byte_pairs(folder, begins=True)
    assert EXPORTER.hinders(model) is None
    EXPORTER.write(model, folder, precision)
    write_config(model, folder, (), 64, "genai")
    return folder


def clean(folder: Path, packages: Path, code: str, given: str = "") -> str:
    """Run code in a folder where nothing but these packages can be imported."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(packages)!r})\n{code}"]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("family", "scheme"), [("llama", "float32"), ("qwen2", "dynamic-int8"), ("gpt2", "float32")])
def test_a_clean_process_generates_the_engine_s_tokens(family: str, scheme: str, tmp_path: Path) -> None:
    model, precision = simulated(family, scheme, eos_token_id=None)
    folder = written(model, precision, tmp_path)
    lengths = torch.randint(1, 24, (PROMPTS,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [torch.randint(2, 600, (1, each), generator=torch.Generator().manual_seed(each)) for each in lengths]
    packages = link_packages(["onnxruntime-genai"], tmp_path / "packages")
    found = clean(folder, packages, GENERATE, json.dumps([each[0].tolist() for each in prompts])).splitlines()
    for prompt, line in zip(prompts, found, strict=True):
        wanted = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert json.loads(line) == wanted


def test_it_ends_at_each_token_that_ends_a_text(tmp_path: Path) -> None:
    model, prompt = decoder("llama", eos_token_id=None), torch.tensor([[5, 9, 77]])
    said = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0].tolist()
    ending = next(token for token in said[4:] if token != said[3])
    model.generation_config.eos_token_id = [607, ending]
    folder = written(model, "float32", tmp_path)
    packages = link_packages(["onnxruntime-genai"], tmp_path / "packages")
    found = json.loads(clean(folder, packages, GENERATE, json.dumps(prompt.tolist())))
    assert found == said[3 : said.index(ending, 3)]


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("llama", "weight-only-int4"), ("mistral", "saturating"), ("qwen3", "dynamic-int8"), ("gpt2", "saturating")],
)
def test_it_answers_as_the_engine(family: str, scheme: str, tmp_path: Path) -> None:
    model, precision = simulated(family, scheme)
    folder, scorer = written(model, precision, tmp_path), scorer_of("causal-lm", Evaluate(length=32), ())
    found = verify(model, folder, kind="genai", int8=True, sample=ROWS, scorer=scorer, pad_id=0)
    assert found.difference < found.allowed.rms
    options = json.loads((folder / runtime.FILE).read_text())["model"]["decoder"]["session_options"]
    assert options == (dict([EXACT_PRODUCTS]) if scheme == "saturating" else {})


def test_a_folder_is_shipped_with_a_score_a_speed_and_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    model = decoder("llama")
    (tmp_path / "tokenizer").mkdir()
    byte_pairs(tmp_path / "tokenizer", begins=True)
    before = shipped(model, tmp_path, ROWS)
    baseline = tmp_path / "artifacts" / before.artifact.name
    found = shipped(model, tmp_path, ROWS, kind="genai", baseline=baseline)
    folder = tmp_path / "artifacts" / found.artifact.name
    assert found.score.runtime.startswith("onnxruntime-genai ")
    assert found.score.model_copy(update={"runtime": before.score.runtime}) == before.score  # the same file, the same kernels
    assert (folder / "model.onnx_data").read_bytes() == (baseline / "model.onnx_data").read_bytes()
    assert found.size == before.size
    assert isinstance(found.latency, Latency)
    assert found.latency.runtime.startswith("onnxruntime-genai ")
    assert found.latency.generation is not None
    assert found.latency.generation.decode_per_second > 0

    code = card_of(kind="genai", task="causal-lm", labels=(), positions=128, scheme=None).usage()
    assert code in (folder / "README.md").read_text("utf-8")
    packages = link_packages(code.partition(INSTALLS)[2].splitlines()[0].split(), tmp_path / "packages")
    assert clean(folder, packages, code).startswith("Once upon a time")


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (lambda: tiny("llama", "ForSequenceClassification"), "language models alone"),
        (lambda: tiny("deepseek_v2"), "keys and values of one width"),
        (lambda: decoder("llama", hidden_act="relu6"), "relu6"),
    ],
)
def test_it_says_what_hinders(model: Any, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cause in str(EXPORTER.hinders(model()))
    monkeypatch.setattr(runtime, "PACKAGE", "no_such_package")
    assert "this worker lacks the extra genai" in str(EXPORTER.hinders(decoder("llama")))
