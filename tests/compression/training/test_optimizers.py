"""AdamW with moments of 8 bits: torchao's numbers, in a quarter of the memory, saved and taken up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchao.optim import AdamW8bit as Reference
from transformers import BertForSequenceClassification

from compression.modalities.base import label_loss
from compression.models.adapters.network.parts import Constant
from compression.planning.memory import moment_bytes
from compression.schema.recipe.recipe import Train
from compression.system.progress import Returning
from compression.training import optimizers, trainer
from compression.training.config import TrainingConfig
from compression.training.optimizers import AdamW8bit, make_optimizer
from tests.compression.training import conftest
from tests.compression.training.conftest import Listener, checkpointer, done, go_on, resumed, same, weights
from tests.support.second_device import second_device
from tests.support.tiny_bert import encoded, sentences

SHAPES = {"large": (96, 256), "blocks": (64, 64), "odd": (65, 67), "few": (64,)}
"""Of parameters: the first two have moments in 8 bits, the third no whole number of blocks, the last too few values."""


def drawn(seed: int) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES.values()]


def stepped(found: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 6) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.device)
        with torch.compiler.set_stance("force_eager"):  # torchao's compiles its step otherwise
            found.step()
    return [parameter.detach().cpu() for parameter in parameters]


def test_its_steps_are_torchaos_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, parts = drawn(0), drawn(0), drawn(0)
    wanted = stepped(Reference(theirs, lr=1e-3, weight_decay=0.1), theirs)
    found = stepped(AdamW8bit([{"params": ours, "weight_decay": 0.1}], lr=1e-3), ours)
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))
    assert not any(one.equal(other.detach()) for one, other in zip(found, drawn(0), strict=True))
    monkeypatch.setattr(optimizers, "CHUNK", 512)  # a large parameter is stepped piece by piece
    found = stepped(AdamW8bit([{"params": parts, "weight_decay": 0.1}], lr=1e-3), parts)
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_a_parameter_whose_memory_has_another_order_steps_alike() -> None:
    plain, turned = drawn(0)[:1], [nn.Parameter(drawn(0)[0].detach().t().contiguous().t())]
    found = (stepped(AdamW8bit([{"params": each}], lr=1e-3), each)[0] for each in (plain, turned))
    assert next(found).equal(next(found))
    assert not turned[0].is_contiguous()


def test_its_moments_take_what_is_forecast() -> None:
    parameters = drawn(0)[:2]
    found = AdamW8bit([{"params": parameters}], lr=1e-3)
    stepped(found, parameters, steps=1)
    held = sum(value.nbytes for state in found.state.values() for name, value in state.items() if name != "step")
    assert held == moment_bytes("adamw-8bit", sum(parameter.numel() for parameter in parameters))
    assert held < 0.26 * moment_bytes("adamw", sum(parameter.numel() for parameter in parameters))


def test_it_steps_on_a_device_as_on_the_cpu() -> None:
    here = drawn(0)
    wanted = stepped(AdamW8bit([{"params": here}], lr=1e-3), here)
    optimizers._map.cache_clear()
    with second_device() as device:
        there = [nn.Parameter(parameter.detach().to(device)) for parameter in drawn(0)]
        found = stepped(AdamW8bit([{"params": there}], lr=1e-3), there)
    optimizers._map.cache_clear()
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(found, wanted, strict=True))


def test_a_model_learns_with_it(model: BertForSequenceClassification) -> None:
    rows, judged = encoded(sentences(320, 1)), encoded(sentences(64, 3))
    plan = TrainingConfig("prepare", 3, 3e-3, 16, 0, optimizer="adamw-8bit")
    start, scores = {name: value.clone() for name, value in model.state_dict().items()}, list[float]()
    for each in (plan, replace(plan, optimizer="adamw")):
        model.load_state_dict(start)
        list(ended := Returning(trainer.train(model, each, rows, judged, label_loss(rows.task, model))))
        scores.append(ended.result.best.score)
    assert min(scores) > 0.9


def test_what_was_saved_with_it_goes_on_bit_for_bit(tmp_path: Path, listener: Listener) -> None:
    train = Train(batch=64, max_length=32, optimizer="adamw-8bit")
    recipe = conftest.RECIPE.model_copy(update={"train": train})
    saved = done("baseline", recipe=recipe, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    assert not same(weights(saved), weights(done("baseline")))
    for number in (1, 7):
        again, _ = go_on("baseline", resumed(tmp_path, listener, number), recipe=recipe)
        assert same(weights(again), weights(saved))


def test_matrices_of_layers_decay_and_other_tensors_do_not() -> None:
    positions = Constant((1, 4, 2), trained=True)
    model = nn.ModuleDict({"layer": nn.Linear(2, 2), "table": nn.Embedding(3, 2), "positions": positions})
    plan = TrainingConfig("prepare", 1, 1e-3, 1, 0)
    groups = make_optimizer(plan, model, model.parameters(), (), 0.1).param_groups
    decayed = {id(one) for group in groups if group["weight_decay"] for one in group["params"]}
    assert decayed == {id(model["layer"].weight)}
