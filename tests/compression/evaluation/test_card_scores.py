"""Scores on a GPU, on a second device without a card (`second_device`), and on the CPU where the GPU cannot."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.engine import shipping
from compression.engine.shipping import measure_artifact
from compression.evaluation import card_check
from compression.evaluation.card_check import EXACT, PEAK, ROUNDED, CardCheck
from compression.evaluation.measure import Measured, MeasureSpec, measure
from compression.evaluation.runtimes import onnx, timm, transformers
from compression.evaluation.runtimes.onnx import CPU_PROVIDER
from compression.evaluation.runtimes.onnx_times import computed_by, providers_in
from compression.evaluation.runtimes.runner import NotOnCard, lacking_on_card, open_artifact, open_on_card
from compression.modalities.scoring.base import Floats, Inputs
from compression.modalities.text.inputs import Batch, full_batch
from compression.schema.report.measurements import Score
from compression.system.child_process import ChildFailed
from compression.system.progress import run_silently
from tests.compression.evaluation.test_measure import spec
from tests.support.second_device import DEVICE, second_device
from tests.support.shipments import Wrapped
from tests.support.timm_models import drawn, save_timm
from tests.support.tiny_language import TEXTS, model, tokenizer
from tests.support.tiny_shipment import Shipment


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The second device, in the GPU's place."""
    for runtime in (transformers, timm):
        monkeypatch.setattr(runtime, "CARD", DEVICE)
    with second_device() as device:
        yield device


def on_card(shipment: Shipment, kind: str = "transformers", **changes: object) -> MeasureSpec:
    """Return what measures an artifact of a shipment, whose score is wanted from the GPU."""
    made = shipment.baseline if kind == "onnx" else shipment.checkpoint
    own = {"kind": kind, "folder": str(shipment.folder(made)), "device": "cuda", "seconds": 0.1}
    return spec(shipment, **own | changes)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> MeasureSpec:
    folder = tmp_path_factory.mktemp("language")
    tokenizer(bos=True).save_pretrained(folder)
    model("llama").save_pretrained(folder)
    rows = folder / "test.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    own = {"kind": "transformers", "folder": str(folder), "task": "causal-lm", "labels": (), "test_rows": str(rows)}
    return MeasureSpec(**own, evaluate={"length": 8, "window": 16}, seconds=0.1, device="cuda")


def test_a_language_model_is_scored_on_the_device(language: MeasureSpec, card: torch.device) -> None:
    found = measure(language).score
    assert (found.device, found.not_on_card) == ("cuda", None)
    assert f"torch {torch.__version__} {card.type.upper()}" in found.runtime
    here = measure(language.model_copy(update={"device": "cpu"})).score
    assert (here.device, here.not_on_card) == ("cpu", None)
    assert "CPU" in here.runtime
    assert found.value == pytest.approx(here.value, rel=1e-6)
    assert (found.metrics, found.taken) == (pytest.approx(here.metrics, rel=1e-6), "on the GPU")


def test_a_step_extends_a_cache_that_stays_on_the_device(language: MeasureSpec, card: torch.device) -> None:
    ids = np.arange(12).reshape(2, 6)
    there = transformers.open_on_card(Path(language.folder), full_batch(1, 4, 9), threads=1)
    here = transformers.open_folder(Path(language.folder), threads=1)
    assert isinstance(there, transformers.TransformersDecoder)
    assert isinstance(here, transformers.TransformersDecoder)
    assert {value.device for value in there.model.parameters()} == {card}
    (_, cache), (_, other) = there.step(ids[:, :4]), here.step(ids[:, :4])
    np.testing.assert_allclose(there.step(ids[:, 4:], cache)[0], here.step(ids[:, 4:], other)[0], rtol=1e-5, atol=1e-5)


def test_a_classifier_answers_on_the_device(tmp_path: Path, encoder: Path, tiny_shipment: Shipment, card: torch.device) -> None:
    tiny_shipment.model.save_pretrained(tmp_path)
    batch = full_batch(3, 9, 40)
    there = transformers.open_on_card(tmp_path, batch, threads=1)
    assert {value.device for value in there.model.parameters()} == {card}
    assert isinstance(there, transformers.TransformersRunner)
    np.testing.assert_allclose(there.logits(batch), open_artifact("transformers", tmp_path, threads=1).logits(batch), atol=1e-6)


class Pictures:
    """A batch of two images."""

    shape = (2, 0)

    def __init__(self) -> None:
        self.arrays = {"pixel_values": np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)}

    def real(self, logits: Floats) -> Floats:
        return logits


def test_a_model_of_timm_answers_on_the_device(tmp_path: Path, card: torch.device) -> None:
    save_timm(drawn("resnet10t", 3), tmp_path)
    found = timm.open_on_card(tmp_path, Pictures(), threads=1)
    assert {value.device for value in found.model.parameters()} == {card}
    assert found.name.endswith(card.type.upper())
    np.testing.assert_allclose(found.logits(Pictures()), timm.open_folder(tmp_path, threads=1).logits(Pictures()), atol=1e-5)


class Bent(Wrapped):
    """A runner whose logits are off by a share of the largest, or that fails after the check."""

    def __init__(self, inner: Any, share: float = 0.0, fails_after: int | None = None) -> None:
        super().__init__(inner)
        self.share, self.left = share, fails_after

    def logits(self, batch: Batch) -> Floats:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB\nand more words")
        found = super().logits(batch)
        return found + self.share * np.float32(np.abs(found).max())


def bend(monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    def opened(kind: str, folder: Path, example: Inputs, *, threads: int) -> Bent:
        return Bent(open_artifact(kind, folder, threads=threads), **how)

    monkeypatch.setattr(card_check, "open_on_card", opened)


@pytest.mark.parametrize(
    ("share", "rounds", "device"),
    [(0.5 * EXACT, False, "cuda"), (2 * EXACT, False, "cpu"), (2 * EXACT, True, "cuda"), (2 * ROUNDED, True, "cpu")],
)
def test_answers_that_differ_by_more_than_is_stated_are_not_taken(
    share: float, rounds: bool, device: str, tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch, share=share)
    found = measure(on_card(tiny_shipment, "onnx", rounds=rounds)).score
    assert found.device == device
    assert found.value == tiny_shipment.baseline.score.value
    assert (found.not_on_card is None) == (device == "cuda")
    if device == "cpu":
        assert "logits there differ by" in found.not_on_card


def test_one_answer_far_off_and_one_that_is_no_number_are_found() -> None:
    expected = np.ones((100, 2), np.float32)
    check, far, lost = CardCheck([], expected, EXACT), expected.copy(), expected.copy()
    far[3, 1] += 2 * PEAK * EXACT
    lost[4, 0] = np.nan
    check.compare(expected)
    with pytest.raises(NotOnCard, match="the farthest"):
        check.compare(far)
    for other in (lost, expected[:50]):
        with pytest.raises(NotOnCard, match="no numbers of the shape"):
            check.compare(other)


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_nothing_is_compared_with_answers_of_the_cpu_that_are_no_numbers(lost: float) -> None:
    expected = np.ones((4, 3), np.float32)
    expected[1, 1] = lost
    with pytest.raises(NotOnCard, match="answers on the CPU"):
        CardCheck([], expected, EXACT).compare(np.ones((4, 3), np.float32))


def test_memory_that_runs_out_in_the_middle_leaves_the_score_to_the_cpu(
    tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch, fails_after=30)  # 9 batches for the check
    found = measure(on_card(tiny_shipment, "onnx"))
    assert found.score == tiny_shipment.baseline.score.model_copy(
        update={"not_on_card": "CUDA out of memory. Tried to allocate 1 GiB"}
    )
    assert found.operators is not None


def test_a_file_is_scored_on_the_cpu_where_the_provider_is_missing_or_lacks_its_operators(
    tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tiny_shipment.folder(made) for made in (tiny_shipment.baseline, tiny_shipment.int8)]
    batch = full_batch(2, 9, 40)
    if onnx.CARD_PROVIDER not in onnx.onnxruntime.get_available_providers():
        assert "install onnxruntime-gpu" in (lacking_on_card("onnx") or "")
        with pytest.raises(NotOnCard, match="install onnxruntime-gpu"):
            open_on_card("onnx", folders[0], batch, threads=1)
    assert "OpenVINO does not run on GPUs" in (lacking_on_card("openvino-int8") or "")
    assert lacking_on_card("transformers") is None
    # The CPU's provider in the GPU's place, which finds all of its own operators left to the CPU.
    monkeypatch.setattr(onnx, "ON_CARD", (CPU_PROVIDER, CPU_PROVIDER))
    monkeypatch.setattr(onnx, "lacking_on_card", lambda: None)
    with pytest.raises(NotOnCard, match=r"no kernels for the file's .*MatMul"):
        open_on_card("onnx", folders[0], batch, threads=1)
    with pytest.raises(NotOnCard, match="MatMulInteger"):
        open_on_card("onnx", folders[1], batch, threads=1)
    monkeypatch.setattr(onnx, "computed_by", lambda *_: [])
    found = open_on_card("onnx", folders[0], batch, threads=1)
    np.testing.assert_array_equal(found.logits(batch), open_artifact("onnx", folders[0], threads=1).logits(batch))
    monkeypatch.setattr(onnx, "providers_in", lambda _: {"AnotherProvider"})
    with pytest.raises(NotOnCard, match="computes nothing of the file"):
        open_on_card("onnx", folders[0], batch, threads=1)
    monkeypatch.setattr(onnx, "ON_CARD", (("DmlExecutionProvider", {}), CPU_PROVIDER))  # Windows' builds alone have it
    with pytest.raises(NotOnCard, match="DmlExecutionProvider did not start"):
        open_on_card("onnx", folders[0], batch, threads=1)


def test_sizes_and_masks_on_the_cpu_are_no_work_of_a_model(tmp_path: Path) -> None:
    def event(name: str, provider: str, *outputs: dict[str, list[int]], end: str = "_kernel_time") -> dict[str, Any]:
        told = {"op_name": name, "provider": provider, "output_type_shape": list(outputs)}
        return {"cat": "Node", "name": f"/{name}{end}", "dur": 1, "args": told}

    written = tmp_path / "nodes.json"
    events = [
        event("Shape", "CPU", {"int64": [2]}),
        event("Where", "CPU", {"bool": [1, 1, 9, 9]}),
        event("Expand", "CPU", {"int64": [2, 9]}),
        event("Sqrt", "CPU", {"float": []}),
        event("MatMul", "CUDA", {"float": [2, 9, 32]}),
        event("Softmax", "CPU", {"float": [2, 9]}, end="_fence_before"),
        {"cat": "Session", "name": "model_run", "dur": 3, "args": {}},
    ]
    written.write_text(json.dumps(events))
    assert computed_by(written, "CPU") == []
    events += [event("MatMulInteger", "CPU", {"int32": [2, 9, 32]}), event("Gelu", "CPU", {"bool": [2]}, {"float": [2, 9]})]
    written.write_text(json.dumps(events))
    assert computed_by(written, "CPU") == ["Gelu", "MatMulInteger"]
    assert providers_in(written) == {"CPU", "CUDA"}


@pytest.mark.fresh
@pytest.mark.parametrize("told", [False, True])
def test_a_process_that_fails_with_the_gpu_is_followed_by_one_without(
    told: bool, tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, asked = tiny_shipment.baseline, list[MeasureSpec]()
    whole = Measured(latency=known.latency, score=known.score, peak_memory_bytes=known.peak_memory_bytes)

    def answers(_: str, given: MeasureSpec, *, silence: float) -> Iterator[str]:
        asked.append(given)
        if told or given.device == "cpu":
            yield whole.model_dump_json()
        if given.device == "cuda":
            raise ChildFailed("measure ended with -11")

    monkeypatch.setattr(shipping, "child_lines", answers)
    assert run_silently(measure_artifact(on_card(tiny_shipment, "onnx"))) == whole
    assert [one.device for one in asked] == (["cuda"] if told else ["cuda", "cpu"])
    assert asked[-1].not_on_card == (None if told else "measure ended with -11")


def test_a_score_says_why_it_was_not_tried(tiny_shipment: Shipment) -> None:
    found = measure(on_card(tiny_shipment, "onnx", device="cpu", not_on_card="it ended")).score
    assert isinstance(found, Score)
    assert (found.device, found.not_on_card, found.taken) == ("cpu", "it ended", "")
