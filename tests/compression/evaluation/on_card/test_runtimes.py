"""Models in the runtimes of a GPU, on a second device without a card (`second_device`), and why one is not timed."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from transformers import BertForSequenceClassification

from compression.evaluation.on_card import runtimes
from compression.evaluation.on_card.measure import CardSpec, TimedModel, time_model
from compression.evaluation.on_card.runtimes import RUNTIMES, CardModel, OnnxModel, TorchModel, Unavailable, VllmModel, numbered
from compression.evaluation.on_card.timing import CLOCK
from compression.evaluation.runtimes import onnx
from compression.evaluation.runtimes.onnx import CPU_PROVIDER
from compression.export.manifest import write_config
from compression.export.onnx.exporter import write_onnx
from compression.system.cards import SLICE, VISIBLE
from tests.support import tiny_language
from tests.support.nvidia import UUIDS, install
from tests.support.second_device import second_device
from tests.support.tiny_bert import tiny_config, write_tokenizer


@pytest.fixture
def classifier(tmp_path: Path) -> CardModel:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    return CardModel(tmp_path / "checkpoint", None, "text-classification")


@pytest.fixture
def decoder(tmp_path: Path) -> CardModel:
    tiny_language.model("llama").save_pretrained(tmp_path / "decoder")
    return CardModel(tmp_path / "decoder", None, "causal-lm")


def written(folder: Path, *, int8: bool) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    write_tokenizer(folder)
    write_onnx(model, folder, int8=int8)
    write_config(model, folder, ("negative", "positive"), 32, "onnx")


@pytest.fixture
def artifact(tmp_path: Path) -> CardModel:
    written(tmp_path, int8=False)
    return CardModel(tmp_path, tmp_path, "text-classification")


def test_pytorch_runs_a_batch_in_bfloat16_on_the_device(classifier: CardModel) -> None:
    with second_device() as device:
        opened = TorchModel(classifier, device=device)
        assert {value.dtype for value in opened.model.parameters()} == {torch.bfloat16}
        assert not opened.continues
        found: Any = opened.call(4, 12)()
        assert found.logits.shape == (4, 2)
        assert found.logits.device == device


def test_pytorch_continues_a_prompt_token_by_token(decoder: CardModel) -> None:
    with second_device() as device:
        opened, seen = TorchModel(decoder, device=device), list[tuple[int, ...]]()
        opened.model.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].shape), with_kwargs=True)
        assert opened.continues
        found: Any = opened.call(2, 8, 3)()
        assert found.logits.device == device
    assert seen == [(2, 8), (2, 1), (2, 1), (2, 1)]
    assert found.cache.get_seq_length() == 11


def test_a_compiled_model_is_timed_in_passes(decoder: CardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    opened = TorchModel(decoder, compiled=True, device=torch.device("cpu"))
    assert compiled == [opened.model]
    assert not opened.continues
    assert opened.peak_bytes() is None


def test_onnx_runtime_needs_the_provider_and_a_file(classifier: CardModel, tmp_path: Path) -> None:
    for name in ("ONNX Runtime CUDA", "ONNX Runtime TensorRT"):
        with pytest.raises(Unavailable, match="no ONNX file"):
            RUNTIMES[name](classifier)
    with pytest.raises(Unavailable, match="an earlier attempt"):
        RUNTIMES["ONNX Runtime CUDA"](replace(classifier, lacks="its file was written by an earlier attempt."))
    model = CardModel(classifier.folder, tmp_path / "artifact", classifier.task)
    with pytest.raises(Unavailable, match="install onnxruntime-gpu"):
        RUNTIMES["ONNX Runtime CUDA"](model)


def test_onnx_runtime_runs_an_artifact(artifact: CardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's provider is in the GPU's place, and what it computes there is not left to the CPU."""
    monkeypatch.setattr(onnx, "computed_by", lambda *_: [])
    opened = OnnxModel(artifact, [CPU_PROVIDER])
    assert opened.timed_by == CLOCK
    found: Any = opened.call(3, 12)()
    assert found.shape == (3, 2)
    with pytest.raises(ValueError, match="tokens"):
        opened.call(1, 8, 4)


def test_a_provider_that_does_not_start_is_told(artifact: CardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = "DmlExecutionProvider"  # Windows' builds alone have it
    monkeypatch.setattr(runtimes.onnxruntime, "get_available_providers", lambda: [absent, CPU_PROVIDER])
    with pytest.raises(Unavailable, match=f"{absent} did not start"):
        OnnxModel(artifact, [absent])


def test_a_provider_that_fails_in_a_pass_is_not_exchanged_for_another(
    artifact: CardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise EPFail("the engine could not be built")

    monkeypatch.setattr(onnx, "computed_by", lambda *_: [])
    opened = OnnxModel(artifact, [CPU_PROVIDER])
    monkeypatch.setattr(opened.runner.session, "_sess", Mock(wraps=opened.runner.session._sess, run=fails))
    with pytest.raises(EPFail, match="could not be built"):
        opened.call(1, 8)()


@pytest.mark.parametrize(("int8", "left"), [(False, "MatMul"), (True, "MatMulInteger")])
def test_a_file_that_is_left_to_the_cpu_has_the_reason_in_its_row(int8: bool, left: str, tmp_path: Path) -> None:
    """The CPU's provider is in the GPU's place, which finds its own operators left to the CPU."""
    written(tmp_path, int8=int8)
    model = TimedModel(stage="distilled", folder=str(tmp_path), onnx=str(tmp_path))
    spec = CardSpec(task="text-classification", models=(model,), length=12)
    row, works = time_model(spec, model, "ONNX Runtime CUDA", partial(OnnxModel, providers=[CPU_PROVIDER]))
    assert works
    assert not row.figures
    assert row.not_measured.startswith("there are no kernels for the file's")
    assert left in row.not_measured.replace(",", "").split()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("CUDA", ["CUDAExecutionProvider"]), ("TensorRT", ["TensorrtExecutionProvider", "CUDAExecutionProvider"])],
)
def test_what_tensorrt_leaves_goes_to_cuda(
    name: str, expected: list[str], artifact: CardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(runtimes.onnxruntime, "get_available_providers", lambda: expected)
    monkeypatch.setattr(runtimes, "open_by", lambda providers, *_, **__: asked.extend(providers))
    RUNTIMES[f"ONNX Runtime {name}"](artifact)
    assert asked == [*expected, CPU_PROVIDER]


def test_vllm_is_asked_for_tokens_where_it_is_installed(
    classifier: CardModel, decoder: CardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="language models"):
        VllmModel(classifier)
    with pytest.raises(Unavailable, match="not installed"):
        VllmModel(decoder)
    asked: list[Any] = []

    class Engine:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def generate(self, prompts: Any, sampling: Any, **_: Any) -> str:
            asked.append((prompts, sampling))
            return "answers"

    fake: Any = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = Engine, lambda **options: options
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(runtimes, "version", lambda _: "1.0")
    opened = VllmModel(decoder)
    assert opened.version == "vllm 1.0"
    assert opened.call(2, 3, 4)() == "answers"
    (options, (prompts, sampling)) = asked
    assert options["dtype"] == "bfloat16"
    assert [len(prompt["prompt_token_ids"]) for prompt in prompts] == [3, 3]
    assert sampling["max_tokens"] == 5
    assert sampling["ignore_eos"]


def test_vllm_is_told_a_card_s_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's environment has the UUID, which vLLM does not read."""
    monkeypatch.setattr(runtimes.list_cards, "__defaults__", (install(tmp_path), None))
    monkeypatch.setenv(VISIBLE, UUIDS[1])
    with numbered():
        assert os.environ[VISIBLE] == "1"
    assert os.environ[VISIBLE] == UUIDS[1]
    monkeypatch.delenv(VISIBLE)
    with numbered():
        assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, f"{SLICE}cccc")
    with pytest.raises(Unavailable, match="slice"), numbered():
        pass


def test_each_runtime_has_a_row() -> None:
    made: list[Callable[..., Any]] = [one.func if isinstance(one, partial) else one for one in RUNTIMES.values()]
    assert made == [TorchModel, TorchModel, OnnxModel, OnnxModel, VllmModel]
