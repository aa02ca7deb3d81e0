"""What a recipe says of all training reaches the optimizer and the multiplications of a stage, as the stages see the recipe."""

from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import BertForSequenceClassification

from compression.schema.recipe.base import Precision
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.support.stage_runs import prepare
from tests.support.tiny_bert import state_of


@pytest.mark.parametrize(("warmup", "decay"), [(0.5, 0.2), (0.25, 0.0)])
def test_each_step_has_its_rate_each_matrix_its_l2(model: BertForSequenceClassification, warmup: float, decay: float) -> None:
    rates: list[float] = []
    decays: dict[int, float] = {}

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(rate)
        decays.update({id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]})

    train = Train(batch=80, warmup=warmup, decay=decay)
    with register_optimizer_step_pre_hook(note):
        list(prepare(state_of(model, Recipe(prepare=Prepare(epochs=2, rate=1e-3), train=train))))
    up = round(8 * warmup)
    assert rates == pytest.approx([1e-3 * min((n + 1) / up, (8 - n) / (8 - up)) for n in range(8)])
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith("weight") and "LayerNorm" not in name and "embeddings" not in name
        assert decays[id(parameter)] == (decay if is_matrix else 0.0), name


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_stage_multiplies_in_the_precision_that_the_recipe_says(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr("compression.quantization.precision.has_bfloat16", lambda device: True)
    seen: set[torch.dtype] = set()

    def look(_: torch.nn.Module, __: Any, out: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            seen.add(out.dtype)

    model.bert.encoder.layer[0].output.dense.register_forward_hook(look)
    list(prepare(state_of(model, Recipe(prepare=Prepare(epochs=1), train=Train(batch=320, precision=precision)))))
    assert seen == {torch.float32 if precision == "float32" else torch.bfloat16}
