"""A decoder as a GGUF file answers in llama.cpp as the engine's model does, whatever was cut of it."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind, GGUFReader
from transformers import AutoModelForCausalLM, PreTrainedModel

from compression.engine import shipping
from compression.evaluation.runtimes import gguf as runtime
from compression.export.exporter import exporter_of
from compression.export.gguf import blocks
from compression.export.gguf.exporter import BF16, Q4_0, Q8_0, GgufExporter
from compression.export.parity_check import verify
from compression.modalities.registry import scorer_of
from compression.modalities.text.decoding import greedy
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.files import gguf_model
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.quantization.weight_only import grouped_integers
from compression.schema.errors import ExportMismatch, UnsupportedTokenizer
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Latency
from compression.schema.validation import ModelFacts
from tests.support.cards import card_of
from tests.support.clean_environment import INSTALLS, link_packages
from tests.support.decoder_models import END, UNKNOWN, tiny, write_tokenizer
from tests.support.gguf_models import DIGITS_ALONE, byte_pairs, decoder, expression
from tests.support.measuring import briefly
from tests.support.shipments import shipped

ROPE: dict[str, Any] = {"rope_theta": 10_000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROWS = [{"text": "The job is a recipe, 12 files and a model that it's made of."}, {"text": "No row is lost in 2026."}]
WRITTEN = [
    ("llama", {}, Q8_0),
    ("llama", {"attention_bias": True, "mlp_bias": True}, Q4_0),
    ("llama", {"tie_word_embeddings": True, "num_attention_heads": 2, "head_dim": 32}, Q8_0),
    ("llama", {"rope_parameters": {**ROPE, **LLAMA3, "original_max_position_embeddings": 32}}, BF16),
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}, BF16),
    ("llama", {"hidden_size": 48}, Q8_0),
    ("mistral", {}, BF16),
    ("qwen2", {"tie_word_embeddings": True}, Q4_0),
    ("qwen2", {"num_attention_heads": 2, "head_dim": 16}, Q8_0),
    ("qwen3", {"head_dim": 32}, Q8_0),
    ("gpt2", {}, Q8_0),
]


def kind_of(exporter: GgufExporter) -> str:
    return f"gguf-{exporter.kind.name.lower().replace('_', '-')}"


def written(model: PreTrainedModel, folder: Path, exporter: GgufExporter) -> Path:
    folder.mkdir(exist_ok=True)
    byte_pairs(folder, expression(DIGITS_ALONE))
    assert (exporter.hinders(model), exporter.cannot_read(model, folder)) == (None, None)
    exporter.write(model, folder, exporter.precision_of(None, model))
    config = exporter.config(model, folder, 64)
    model.config.from_dict(config).save_pretrained(folder)
    return folder


def agrees(model: PreTrainedModel, folder: Path, exporter: GgufExporter) -> float:
    """Hold the file against the engine as a job does, and return the distance in units of what is allowed."""
    precision = exporter.precision_of(None, model)
    scorer = scorer_of("causal-lm", Evaluate(length=32), ())
    half = torch.bfloat16 if precision == "bfloat16" else None
    how: dict[str, Any] = {"int8": half is None, "half": half, "sample": ROWS, "scorer": scorer}
    found = verify(model, folder, kind=kind_of(exporter), pad_id=0, **how)
    return found.difference / found.allowed.rms


@pytest.mark.parametrize(("family", "changes", "exporter"), WRITTEN)
def test_llama_cpp_answers_as_the_engine(family: str, changes: dict[str, Any], exporter: GgufExporter, tmp_path: Path) -> None:
    model = decoder(family, **changes)
    assert agrees(model, written(model, tmp_path, exporter), exporter) < 1


def test_it_says_the_same_greedy_tokens(tmp_path: Path) -> None:
    """In bfloat16, of a model whose choices are firm."""
    model = decoder("qwen2", initializer_range=0.02)
    with torch.no_grad():
        table = model.get_input_embeddings().weight.mul_(5)  # layers add little to what a token is
        model.lm_head.weight.copy_(table.roll(-3, 0) * 20)
    folder = written(model, tmp_path, BF16)
    opened = runtime.open_folder(folder, threads=1)
    for text in ("Once upon a time", "12 files", "def f(x):"):
        ids = opened.opened.tokenize(text)
        wanted = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None)
        steps = greedy(opened, np.array([ids]))
        assert [int(next(steps)[0]) for _ in range(8)] == wanted[0, len(ids) :].tolist()


def test_it_is_timed_in_turns_with_the_original_s_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    model = decoder("llama")
    (tmp_path / "tokenizer").mkdir()
    byte_pairs(tmp_path / "tokenizer", expression(DIGITS_ALONE))
    before = shipped(model, tmp_path, ROWS)
    baseline = tmp_path / "artifacts" / before.artifact.name
    found = shipped(model, tmp_path, ROWS, kind="gguf-q8-0", precision="int8", baseline=baseline)
    assert isinstance(found.latency, Latency)
    assert found.latency.runtime == runtime.name()
    assert found.latency.generation is not None
    assert found.latency.generation.prompt == 16
    assert min(found.latency.generation.decode_per_second, found.latency.generation.baseline_decode_per_second) > 0
    assert "tokens a second, one after the other" in (tmp_path / "artifacts" / found.artifact.name / "README.md").read_text()


def test_a_lost_bias_is_noticed_even_in_4_bits(tmp_path: Path) -> None:
    model = decoder("qwen2")
    folder = written(model, tmp_path, Q4_0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("v_proj.bias"):
                parameter.zero_()
    with pytest.raises(ExportMismatch, match="logits differ"):
        agrees(model, folder, Q4_0)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_is_cut_is_written_in_its_own_shape(family: str, tmp_path: Path) -> None:
    model = decoder(family)
    adapter = adapter_of(model)
    keep = {"hidden": torch.arange(0, 64, 2), "heads.0": torch.tensor([1]), "heads.1": torch.tensor([0])}
    keep |= {f"ffn.{layer}": torch.arange(0, 96, 2) for layer in range(2)}
    small = adapter.narrowed(model, PruningPlan(keep, None)).eval()
    folder = written(small, tmp_path, Q8_0)
    assert agrees(small, folder, Q8_0) < 1
    reader = GGUFReader(folder / runtime.FILE)
    assert reader.fields["llama.attention.head_count" if family == "llama" else "qwen2.attention.head_count"].contents() == 2
    # 48 units are no multiple of 32
    assert {one.name: one.tensor_type for one in reader.tensors}["blk.0.ffn_down.weight"] == Kind.F16
    assert Q8_0.stored_as(small, "int8") == "Q8_0, 3,072 parameters F16"


def test_tensors_lie_at_cache_lines_and_what_is_not_a_matrix_is_float32(tmp_path: Path) -> None:
    model = decoder("llama", tie_word_embeddings=True)
    reader = GGUFReader(written(model, tmp_path, Q4_0) / runtime.FILE)
    assert reader.fields["general.alignment"].contents() == 64
    assert [one.data_offset % 64 for one in reader.tensors] == [0] * len(reader.tensors)
    kinds = {one.name: one.tensor_type for one in reader.tensors}
    assert "output.weight" not in kinds
    assert kinds.pop("token_embd.weight") == Kind.Q8_0
    assert {name.endswith("norm.weight"): kind for name, kind in kinds.items()} == {True: Kind.F32, False: Kind.Q4_0}


@pytest.mark.parametrize(
    ("exporter", "scheme"), [(Q8_0, "dynamic-int8"), (Q8_0, "weight-only-int4"), (Q4_0, "weight-only-int4")]
)
def test_blocks_have_the_integers_that_were_trained(exporter: GgufExporter, scheme: Any, tmp_path: Path) -> None:
    model = decoder("llama")
    group = 32 if scheme == "weight-only-int4" else None
    insert_fake_quantization(model, simulation=Simulation(scheme=scheme, group_size=group, portable=group is None))
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    wanted = blocks.weight_of(layer)
    scales = blocks.unpack(blocks.pack(layer, exporter.kind), exporter.kind) / wanted
    assert float((scales - 1).abs().nan_to_num().max()) < 2**-11  # a scale's rounding to float16 and nothing else
    assert agrees(model, written(model, tmp_path, exporter), exporter) < 1
    if group:
        packed = blocks.pack(layer, Kind.Q4_0).reshape(-1, 18)[:, 2:]
        whole = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int8) - 8
        assert np.array_equal(whole.reshape(64, 96), grouped_integers(layer.weight, group)[0].numpy())


def test_bfloat16_is_of_the_float_weights(tmp_path: Path) -> None:
    model = decoder("qwen2")
    plain = copy.deepcopy(model)
    insert_fake_quantization(model, simulation=Simulation(scheme="dynamic-int8"))
    one, other = (written(each, tmp_path / name, BF16) / runtime.FILE for each, name in ((model, "one"), (plain, "other")))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("family", "exporter"), [("llama", Q8_0), ("qwen2", Q4_0), ("mistral", BF16)])
def test_transformers_opens_it_too(family: str, exporter: GgufExporter, tmp_path: Path) -> None:
    """It unpacks the matrices to float32, so that only the order of sums differs."""
    model = decoder(family)
    folder = written(model, tmp_path, exporter)
    opened = AutoModelForCausalLM.from_pretrained(folder, gguf_file=runtime.FILE, dtype=torch.float32).eval()
    ids, twin = torch.arange(2, 42)[None], exporter.reference(model, int8=exporter is not BF16)
    with torch.no_grad():
        for parameter in twin.parameters() if exporter is BF16 else ():
            if parameter.ndim > 1:
                parameter.copy_(parameter.bfloat16())
        torch.testing.assert_close(opened(ids).logits, twin(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_lathe_itself_takes_it_as_an_upload(family: str, tmp_path: Path) -> None:
    model = decoder(family)
    file = written(model, tmp_path / "made", Q8_0) / runtime.FILE
    (tmp_path / "sent").mkdir()
    file.rename(tmp_path / "sent" / file.name)
    facts = gguf_model.check(tmp_path / "sent")
    assert isinstance(facts, ModelFacts)
    assert facts.shape == adapter_of(model).shape_of(model.config)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (lambda: tiny("deepseek_v2"), "of llama, qwen2, qwen3, gpt2, mistral, and this is deepseek_v2"),
        (lambda: tiny("llama", "ForSequenceClassification"), "of language models alone"),
        (lambda: decoder("llama", hidden_act="gelu"), "another activation than gelu in llama"),
        (lambda: decoder("gpt2", activation_function="gelu"), "another activation than gelu in gpt2"),
        (lambda: decoder("gpt2", scale_attn_by_inverse_layer_idx=True), "does not divide attention scores"),
        (lambda: decoder("mistral", sliding_window=16), "does not limit attention to 16 tokens"),
        (lambda: decoder("qwen3", attention_bias=True), "no biases in the attention of qwen3"),
        (
            lambda: decoder("llama", rope_parameters={**ROPE, "rope_type": "dynamic", "factor": 2.0}),
            "Positions are scaled by dynamic",
        ),
        (
            lambda: decoder("llama", hidden_size=40, intermediate_size=56, num_attention_heads=2, head_dim=20),
            "None of its matrices",
        ),
    ],
)
def test_it_says_what_hinders(model: Any, cause: str) -> None:
    assert cause in str(Q8_0.hinders(model()))


def test_a_worker_without_llama_cpp_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = decoder("llama")
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "PACKAGE", "no_such_package")
        assert "this worker lacks the extra gguf" in str(Q8_0.hinders(model))
    old = tmp_path / "cpuinfo"
    old.write_text("processor: 0\nflags\t\t: fpu sse2 avx f16c\n")
    monkeypatch.setattr(runtime, "CPU", old)
    assert "compiled for (avx2, bmi2, fma)" in str(Q8_0.hinders(model))


def test_without_a_tokenizer_that_llama_cpp_has_nothing_is_written(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, [END, UNKNOWN, "word"])
    model = decoder("llama")
    why = "tokenizer.json is of the kind WordPiece, and only byte pairs are written"
    assert Q8_0.cannot_read(model, tmp_path) == f"{why}."
    with pytest.raises(UnsupportedTokenizer, match="WordPiece"):
        Q8_0.write(model, tmp_path, "int8")
    assert not list(tmp_path.glob("*.gguf"))


def test_the_code_on_its_card_runs_with_nothing_but_what_it_installs(tmp_path: Path) -> None:
    model = decoder("llama")
    folder = written(model, tmp_path / "made", Q8_0)
    card = card_of(kind="gguf-q8-0", task="causal-lm", labels=(), positions=128, scheme=None)
    text = card.render()
    assert "rounds to 8 bits in blocks of 32" in text
    assert exporter_of("gguf-q8-0").opens_with("int8", "causal-lm", split=False) in text
    code = card.usage()
    packages = link_packages(code.partition(INSTALLS)[2].splitlines()[0].split(), tmp_path / "packages")
    command = [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(packages)!r})\n{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Once upon a time"), done.stderr
