"""The stage that cuts the next of several sizes: units go in the tables' order, and layers keep their numbers."""

from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from compression.engine.stages import points
from compression.models.adapters.registry import adapter_of
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.training.save import TrainingCheckpointer
from tests.support.stage_runs import prune
from tests.support.tiny_bert import state_of, tiny_config

LAYERS = 6


def numbered() -> BertForSequenceClassification:
    """Return a model whose layers say their number: no update of a cut changes a normalization."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_hidden_layers=LAYERS)).eval()
    for number, layer in enumerate(model.bert.encoder.layer):
        torch.nn.init.constant_(layer.output.LayerNorm.bias, number / 100)
    return model


def numbers_of(model: BertForSequenceClassification) -> list[int]:
    return [round(100 * layer.output.LayerNorm.bias[0].item()) for layer in model.bert.encoder.layer]


def test_each_size_is_cut_from_the_one_before_it_as_the_solver_chose_it(tmp_path: Path) -> None:
    asked = Prune.model_validate(
        {
            "search": "solver",
            "points": 3,
            "calibration_rows": 64,
            "multiple": 8,
            "axes": ["hidden", "heads", "ffn", "layers"],
            "target_params": 0.75,
        }
    )
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=asked, distill=Distill(), train=Train(precision="float32"))
    state = state_of(numbered(), recipe)
    state.checkpointer = TrainingCheckpointer(tmp_path, "")
    whole = sum(each.numel() for each in state.model.parameters())
    list(prune(state))
    found = state.result.points
    assert [one.stage for one in found] == ["distilled", "point2", "point3"]
    assert len(found[-1].layers) < LAYERS
    assert len({len(one.layers) for one in found}) > 1, "otherwise no layer goes between two sizes"
    for number, size in enumerate(found):
        if number:
            points._cut(state, found[number - 1], size)
        family = adapter_of(state.model)
        assert family.shape_of(state.model.config) == size.shape
        assert numbers_of(state.model) == [*size.layers]
        assert sum(each.numel() for each in state.model.parameters()) == size.parameters == round(size.share * whole)
        assert state.result.pruning == size.pruning
        assert size.pruning["layers"]["after"] == len(size.layers)
    assert {key: len(units) for key, units in state.result.units.items() if key.startswith("ffn")} == {
        f"ffn.{at}": found[-1].shape.ffn for at in range(len(found[-1].layers))
    }
    assert sum("Cut from" in note for note in state.notes) == 2
