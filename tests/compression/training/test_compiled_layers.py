"""Layers compiled for a training's steps: the same weights, and training goes on where compiling fails."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification
from transformers.modeling_layers import GradientCheckpointingLayer

from compression.engine.heartbeat import heartbeat
from compression.evaluation.validate import Validation
from compression.modalities.base import label_loss
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.events import Log
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe, Train
from compression.system.progress import Returning
from compression.training import compiled_layers
from compression.training.compiled_layers import CompiledLayers
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.trainer import train
from tests.support.stage_runs import distill
from tests.support.tiny_bert import encoded, sentences, state_of
from tests.support.trainings import run_of

TRAIN, VALIDATION = encoded(sentences(96, 1)), encoded(sentences(32, 3))
PLAN = TrainingConfig("prepare", 1, 3e-3, 16, 0, precision="float32", compile="on")
needs_compiler = pytest.mark.skipif(which("g++") is None, reason="inductor compiles for a CPU with g++, and there is none")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave torch's settings as they were."""
    names = ("suppress_errors", "recompile_limit", "accumulated_recompile_limit")
    before = {name: getattr(torch._dynamo.config, name) for name in names}
    yield
    for name, value in before.items():
        setattr(torch._dynamo.config, name, value)
    torch._dynamo.reset()


def trained(
    model: BertForSequenceClassification, plan: TrainingConfig = PLAN
) -> tuple[list[torch.Tensor], TrainingOutcome, list[str]]:
    events = list(each := Returning(train(model, plan, TRAIN, VALIDATION, label_loss(TRAIN.task, model))))
    logs = [event.message for event in events if isinstance(event, Log)]
    return [value.detach().clone() for value in model.parameters()], each.result, logs


def compiled_by(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **options: plain(forward, backend=backend, **options))


@needs_compiler
def test_a_compiled_training_ends_with_the_same_weights(model: BertForSequenceClassification) -> None:
    start = copy.deepcopy(model.state_dict())
    plain, _, logs = trained(model, replace(PLAN, compile="off", dropout=False))
    assert not logs
    model.load_state_dict(start)
    compiled, outcome, logs = trained(model)
    assert not outcome.remarks
    assert "runs 2 layers compiled" in logs[0]
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(plain, compiled, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())  # validation and export run it as it is


class Narrow(GradientCheckpointingLayer):
    """A layer as pruning leaves it: with a width of its own inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(4, width), torch.nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.nn.functional.dropout(self.down(x), training=self.training))


def test_all_layers_are_compiled_if_each_has_a_width_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles a function eight times by default, and all layers are one function, those of earlier trainings too."""
    compiled = list[torch.fx.GraphModule]()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    compiled_by(backend, monkeypatch)
    for widths in (range(8, 14), range(14, 26)):
        model, already = torch.nn.Sequential(*map(Narrow, widths)), len(compiled)
        layers = CompiledLayers(model, PLAN)

        def step(model: torch.nn.Module = model, layers: CompiledLayers = layers) -> None:
            with layers.in_place():
                model(torch.randn(3, 4))

        where: Any = SimpleNamespace(remarks=[])
        (log,) = layers.begin(where, 1, step)
        assert f"runs {len(widths)} layers compiled" in log.message
        assert len(compiled) - already == len(widths)
        model.eval()
        for _ in range(2):
            step()
        assert len(compiled) - already == 2 * len(widths)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_steps_and_only_they_run_the_compiled_layers(
    model: BertForSequenceClassification, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            seen.append(True)
            return graph(*inputs)

        return run

    start = copy.deepcopy(model.state_dict())
    plain, _, _ = trained(model, replace(PLAN, compile="off"))
    model.load_state_dict(start)
    compiled_by(backend, monkeypatch)
    compiled, outcome, _ = trained(model, replace(PLAN, recompute=recompute))
    assert not outcome.remarks
    assert len(seen) >= 2 * 6 * (1 + recompute)  # layers and steps; what is computed again is compiled too
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(plain, compiled, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_compiler_that_fails_costs_a_remark(model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    start = copy.deepcopy(model.state_dict())
    plain, _, _ = trained(model, replace(PLAN, compile="off", dropout=True))
    model.load_state_dict(start)

    def backend(*_: Any) -> Any:
        raise FileNotFoundError("no C++ compiler")

    compiled_by(backend, monkeypatch)
    found, outcome, logs = trained(model, replace(PLAN, dropout=True))
    (remark,) = outcome.remarks
    assert "no C++ compiler" in remark
    assert logs == [remark]
    assert all(one.equal(other) for one, other in zip(plain, found, strict=True))  # nothing of the trial stays


def test_what_simulates_integers_and_what_hooks_read_is_not_compiled(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", None)
    state = state_of(model, Recipe(distill=Distill(epochs=1, attention=1.0), train=Train(batch=64, compile="on")))
    state.teacher = copy.deepcopy(model).requires_grad_(False)
    list(distill(state))
    assert any("since it compares attention" in note for note in state.notes)
    insert_fake_quantization(model)
    _, outcome, _ = trained(model)
    assert "while it simulates integers" in outcome.remarks[0]


def test_auto_compiles_long_trainings_on_a_gpu_alone(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda forward, **_: calls.append(forward) or forward)
    trained(model, replace(PLAN, compile="auto"))
    assert not calls
    monkeypatch.setattr(compiled_layers, "can_compile", lambda _: True)
    trained(model, replace(PLAN, compile="auto"))
    assert not calls  # six steps
    monkeypatch.setattr(compiled_layers, "LONG_STEPS", 6)
    trained(model, replace(PLAN, compile="auto"))
    assert len(calls) == 2


def test_auto_counts_the_steps_that_are_expected_and_not_the_bound(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open training may take 200 epochs of six steps, and is expected to take some."""
    monkeypatch.setattr(compiled_layers, "can_compile", lambda _: True)
    monkeypatch.setattr(compiled_layers, "LONG_STEPS", 1000)
    monkeypatch.setattr(torch, "compile", None)
    plan = replace(PLAN, compile="auto", epochs=200, plateau=0.5, patience=3)
    run = run_of(model, plan, label_loss(TRAIN.task, model), TRAIN)
    run.begin(Validation(0.0, 0.0))
    assert run.where.total == 1200
    assert run.expected < 1000
    assert list(run.epoch(TRAIN, None))


def test_a_card_without_a_compiler_is_not_compiled_for_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["clang"]
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiled_layers, "which", lambda name: name if name in there else None)
    parameter = SimpleNamespace(device=torch.device("cuda"))
    card, cpu = SimpleNamespace(parameters=lambda: iter([parameter])), torch.nn.Linear(1, 1)
    assert compiled_layers.can_compile(card)  # type: ignore[arg-type]
    assert not compiled_layers.can_compile(cpu)
    monkeypatch.setenv("CC", "icc")
    assert not compiled_layers.can_compile(card)  # type: ignore[arg-type]
    monkeypatch.delenv("CC")
    there.clear()
    assert not compiled_layers.can_compile(card)  # type: ignore[arg-type]


def test_a_model_without_such_layers_is_told_so(model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)
    monkeypatch.setattr(compiled_layers, "layers_of", lambda _: [])  # as of MPNet
    _, outcome, logs = trained(model)
    (remark,) = outcome.remarks
    assert "no layers that can be compiled" in remark
    assert not logs


def test_signs_of_life_leave_each_layer_s_graph_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's heartbeat is called by each module, and torch traces no clock: a layer's graph would end at each of them."""
    graphs = list[int]()

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(sum(node.op != "placeholder" for node in graph.graph.nodes))
        return graph.forward

    def traced() -> list[int]:
        graphs.clear()
        torch._dynamo.reset()
        layer = Narrow(3).eval()
        torch.compile(layer.forward, backend=count)(torch.ones(2, 4))
        return list(graphs)

    alone = traced()
    assert len(alone) == 1
    with heartbeat(lambda: None):
        assert traced() == alone
