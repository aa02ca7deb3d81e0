"""Recovery unfreezes a model layer by layer: who learns in which epoch, and what is frozen stays as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertForSequenceClassification

from compression.engine.context import StageContext
from compression.engine.stages.recover import epochs_alone, freeze, learning_layers
from compression.schema.events import Progress
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.compression.training.conftest import Listener, checkpointer, resumed, same, weights
from tests.support.stage_runs import prune
from tests.support.tiny_bert import state_of, tiny_config

TRAIN = Train(batch=160, max_length=32)
"""Two steps an epoch."""


def three_layers() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config(num_labels=2, num_hidden_layers=3)).eval()


def cut_of(recovery: Recovery, **changes: object) -> StageContext:
    settings = Prune(ratio=0.5, multiple=8, calibration_rows=64, recovery=recovery).model_copy(update=changes)
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=settings, distill=None, train=TRAIN)
    return state_of(three_layers(), recipe)


@pytest.mark.parametrize(
    ("layers", "epochs", "learning"),
    [
        (6, 6, [1, 2, 3, 4, 5, 6]),
        (3, 7, [1, 1, 2, 2, 3, 3, 3]),
        (6, 20, [1] * 3 + [2] * 3 + [3] * 4 + [4] * 3 + [5] * 3 + [6] * 4),
        (12, 3, [4, 8, 12]),  # fewer epochs than layers: several join at once
        (6, 1, [6]),
        (1, 3, [1, 1, 1]),
    ],
)
def test_each_layer_has_a_share_of_the_epochs_to_join_in(layers: int, epochs: int, learning: list[int]) -> None:
    assert [learning_layers(epoch, epochs, layers) for epoch in range(1, epochs + 1)] == learning
    assert epochs_alone(layers, epochs) == sum(count < layers for count in learning)


def test_tables_and_head_learn_with_the_deepest_layer() -> None:
    model = three_layers()
    before_epoch = partial(freeze, model, Recovery(epochs=3))
    layers = [{name for name, _ in model.named_parameters() if f"encoder.layer.{depth}." in name} for depth in range(3)]
    everything = {name for name, _ in model.named_parameters()}
    for epoch, wanted in ((1, layers[0]), (2, layers[0] | layers[1]), (3, everything), (2, layers[0] | layers[1])):
        before_epoch(epoch)  # a training that goes on, or steps back, begins at any epoch
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == wanted


def test_what_is_frozen_stays_to_the_bit_and_the_optimizer_knows_nothing_of_it() -> None:
    # A large L2: whatever the optimizer touched would shrink.
    state = cut_of(Recovery(epochs=3, rate=1e-2, adapt_l2=False))
    state.recipe = state.recipe.model_copy(update={"train": TRAIN.model_copy(update={"decay": 0.3})})
    moved: list[set[str]] = []
    before: dict[str, torch.Tensor] = {}

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        named = dict(state.model.named_parameters())
        known = {name for name, parameter in named.items() if optimizer.state.get(parameter)}
        now = {name: parameter.detach().clone() for name, parameter in named.items()}
        if before:
            moved.append({name for name in named if not now[name].equal(before[name])})
            assert moved[-1] <= known
        assert known == {name for name in named if any(part in name for part in LEARNING[len(moved) // 2])}
        before.update(now)

    everything = [""]
    LEARNING = [["encoder.layer.0."], ["encoder.layer.0.", "encoder.layer.1."], everything]  # noqa: N806
    with register_optimizer_step_post_hook(look):
        events = list(prune(state))
    assert len(moved) == 5  # six steps, of which the first has none before it
    assert all(any(f"encoder.layer.{depth}." in name for name in moved[2 * depth]) for depth in range(3))
    assert "classifier.weight" in moved[-1]
    assert "bert.embeddings.word_embeddings.weight" in moved[-1]
    assert len([event for event in events if isinstance(event, Progress) and event.score is not None]) == 3
    assert "all of the model in epoch 3." in state.notes[-1]


def test_each_step_begins_again_at_the_shallowest_layer_over_its_own_epochs() -> None:
    state = cut_of(Recovery(epochs=7, rate=1e-3), steps=2)
    depths: list[int] = []

    def look(*_: Any) -> None:
        learning = [name for name, parameter in state.model.named_parameters() if parameter.requires_grad]
        depths.append(3 if "classifier.weight" in learning else len({name.split(".")[3] for name in learning}))

    with register_optimizer_step_post_hook(look):
        list(prune(state))
    assert depths[::2] == [1, 2, 3, 1, 2, 3, 3]  # three epochs after the first cut, four after the second


def test_patience_is_counted_from_the_epoch_in_which_all_learns() -> None:
    state = cut_of(Recovery(epochs=12, rate=1e-12, patience=2))  # no weight moves, so no epoch is better than none
    events = list(prune(state))
    assert len([event for event in events if isinstance(event, Progress) and event.score is not None]) == 8 + 2


def test_a_training_that_goes_on_in_mid_epoch_freezes_what_that_epoch_freezes(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    listener = Listener(tmp_path / "kept")
    recovery = Recovery(epochs=3, rate=1e-3)
    plain = cut_of(recovery)
    list(prune(plain))
    saved = cut_of(recovery)
    saved.checkpointer = checkpointer(tmp_path)
    listener.hear(prune(saved))
    again = cut_of(recovery)
    again.checkpointer = resumed(tmp_path, listener, 3)  # of six steps: in the midst of the second epoch
    frozen: list[set[str]] = []

    def look(*_: Any) -> None:
        still = [name for name, parameter in again.model.named_parameters() if not parameter.requires_grad]
        frozen.append({name.split(".")[3] for name in still if "layer." in name})

    with register_optimizer_step_post_hook(look):
        list(prune(again))
    assert frozen == [{"2"}, set(), set()]
    assert same(weights(again), weights(plain))
