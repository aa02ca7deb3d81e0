"""A shape is traced once, and what is lent holds nobody else's weights."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx import trace
from compression.export.onnx.exporter import plain_model, write_onnx
from compression.modalities.text.inputs import Batch
from tests.compression.export.onnx.test_encoder_families import padded
from tests.compression.export.onnx.test_exporter import answers
from tests.support.encoder_models import tiny


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The classes of models that torch traces from now on, none being kept."""
    seen: list[type] = []
    export: Callable[..., Any] = torch.onnx.export

    def watched(model: nn.Module, *arguments: Any, **settings: Any) -> Any:
        seen.append(type(model.model))
        return export(model, *arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", watched)
    monkeypatch.setattr(trace, "_kept", type(trace._kept)())
    return seen


def other(model: PreTrainedModel) -> PreTrainedModel:
    """The same shape, with everything that could be told apart by its values told apart."""
    twin = plain_model(model)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    twin.config.architectures = [type(twin.base_model).__name__]  # as before a stage has saved it
    return twin


def told(model: PreTrainedModel, folder: Path, batch: Batch, *, int8: bool) -> np.ndarray[Any, Any]:
    folder.mkdir()
    return OnnxRunner(write_onnx(model, folder, int8=int8), threads=1).logits(batch)


@pytest.mark.parametrize(("kind", "layers"), [("bert", 2), ("electra", 1), ("mpnet", 1)])
def test_a_second_model_of_a_shape_answers_with_its_own_weights(
    kind: str, layers: int, tmp_path: Path, traced: list[type]
) -> None:
    first, batch = tiny(kind, num_hidden_layers=layers), padded()
    second = other(first)
    for number, model in enumerate((first, second, first)):
        for int8 in (False, True):
            found, wanted = told(model, tmp_path / f"{number}{int8}", batch, int8=int8), answers(model, batch, simulated=int8)
            # A value on the edge of two integers may fall either way in a few rows; the others agree to the last digits.
            assert (np.median if int8 else np.max)(np.abs(found - wanted)) < 2e-5
    assert np.abs(answers(first, batch, simulated=False) - answers(second, batch, simulated=False)).max() > 0.01
    assert traced == [type(first)]


def test_a_graph_that_is_lent_is_the_graph_that_would_be_traced(traced: list[type]) -> None:
    first = plain_model(tiny("bert", num_hidden_layers=1))
    trace.graph(other(first))
    lent = trace.graph(first)
    assert len(traced) == 1
    trace._kept.clear()
    own = trace.graph(first)
    assert len(traced) == 2
    assert lent.SerializeToString(deterministic=True) == own.SerializeToString(deterministic=True)
    onnx.checker.check_model(lent)


def test_another_shape_is_traced_and_the_last_are_kept(traced: list[type], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST", 2)
    for width in (8, 16, 8, 24, 16):
        trace.graph(plain_model(tiny("distilbert", num_hidden_layers=1, intermediate_size=width)))
        assert len(trace._kept) <= 2
    assert len(traced) == 4  # the 24 takes the place of the 16, which was used before the 8


def test_what_is_kept_holds_no_weights(traced: list[type]) -> None:
    model = plain_model(tiny("bert", num_hidden_layers=1))
    weight = weakref.ref(model.get_parameter("bert.embeddings.word_embeddings.weight"))
    trace.graph(model)
    del model
    gc.collect()
    assert weight() is None
    assert len(trace._kept) == len(traced) == 1
