"""The stage that prunes takes its widths from the solver: within the targets, with updated weights, tables computed once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.context import StageContext
from compression.engine.stages.prune import counter
from compression.engine.tables_checkpoint import FOLDER, read_tables
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import own_axes
from compression.pruning.prune_progress import PruneProgress
from compression.pruning.scores import ImportanceScores
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.interrupts import Pause
from compression.system.sealed_folder import UnusableCheckpoint
from compression.training.save import TrainingCheckpointer
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import prune
from tests.support.tiny_bert import state_of, tiny_config
from tests.support.tiny_maps import network_state


def recipe_of(asked: Prune) -> Recipe:
    return Recipe(prepare=Prepare(epochs=0), quantize=None, prune=asked, distill=None, train=Train(precision="float32"))


def encoder_state(place: Path, **settings: Any) -> StageContext:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_hidden_layers=3)).eval()
    asked = Prune.model_validate({"search": "solver", "calibration_rows": 64, "multiple": 8, **settings})
    state = state_of(model, recipe_of(asked))
    state.checkpointer = TrainingCheckpointer(place, "")
    return state


def map_state(place: Path, **settings: Any) -> StageContext:
    model = drawn_network(resnet((2, 2), 8))
    asked = Prune.model_validate({"search": "solver", "calibration_rows": 48, **settings})
    asked = own_axes(adapter_of(model).shape_of(model.config), asked, NETWORK.usual_axes)
    state = network_state(model, recipe_of(asked), varies=False)
    state.checkpointer = TrainingCheckpointer(place, "")
    return state


def test_an_encoder_is_cut_to_no_more_parameters_than_the_target(tmp_path: Path) -> None:
    state = encoder_state(tmp_path, target_params=0.4)
    before = counter(state.model)(adapter_of(state.model).shape_of(state.model.config))
    list(prune(state))
    assert adapter_of(state.model).parameters_of(state.model).total <= 0.6 * before
    told = state.result.pruning
    assert set(told) == {"hidden", "heads", "ffn"}
    shape = adapter_of(state.model).shape_of(state.model.config)
    assert {key: each["after"] for key, each in told["ffn"]["groups"].items()} == {f"ffn.{n}": shape.ffn for n in range(3)}
    errors = [each["error"] for axis in told.values() for each in axis["groups"].values()]
    assert sum(errors) > 0
    assert any(f"predicted error {sum(errors):.4g}" in note for note in state.notes)


def test_a_network_has_free_widths_within_parameters_and_operations(tmp_path: Path) -> None:
    state = map_state(tmp_path, target_params=0.3, target_flops=0.4, axes=["channels", "hidden"])
    whole = adapter_of(state.model).network(state.model.config)
    list(prune(state))
    cut = adapter_of(state.model).network(state.model.config)
    assert cut.parameters() <= 0.7 * whole.parameters()
    assert cut.multiply_adds() <= 0.6 * whole.multiply_adds()
    groups = {key: each for axis in state.result.pruning.values() for key, each in axis["groups"].items()}
    assert len({each["taken"] for each in groups.values()}) > 1
    assert all((each["error"] > 0) == (each["taken"] > 0) for each in groups.values())


def test_without_a_target_no_more_stays_than_the_ratio_leaves_and_layers_may_go(tmp_path: Path) -> None:
    state = encoder_state(tmp_path / "one", ratio={"ffn": 0.5, "layers": 0.4})
    plain = encoder_state(tmp_path / "two", ratio={"ffn": 0.5, "layers": 0.4}, search=None)
    list(prune(state))
    list(prune(plain))
    family = adapter_of(state.model)
    assert family.parameters_of(state.model).total <= family.parameters_of(plain.model).total
    kept = list(state.result.pruning["ffn"]["groups"])
    assert len(kept) == family.shape_of(state.model.config).layers


def test_blocks_of_a_network_go_if_that_errs_less(tmp_path: Path) -> None:
    state = map_state(tmp_path, target_params=0.85, axes=["channels", "layers"])
    before = adapter_of(state.model).network(state.model.config).parameters()
    list(prune(state))
    shape = adapter_of(state.model).shape_of(state.model.config)
    assert 1 <= shape.layers < 3
    assert state.result.pruning["layers"]["after"] == shape.layers
    assert adapter_of(state.model).network(state.model.config).parameters() < before


def test_the_nearest_point_to_a_target_out_of_reach_is_taken_and_noted(tmp_path: Path) -> None:
    state = encoder_state(tmp_path, target_params=0.5, axes=["ffn"])
    list(prune(state))
    assert adapter_of(state.model).shape_of(state.model.config).ffn == 8
    assert any(note.startswith("Out of reach: at most") for note in state.notes)


def test_a_later_job_reads_the_tables_of_an_earlier_one(tmp_path: Path) -> None:
    first, again = encoder_state(tmp_path / "one", target_params=0.3), encoder_state(tmp_path / "two", target_params=0.4)
    list(prune(first))
    again.checkpointer.resume = tmp_path / "one"
    list(prune(again))
    assert any("seconds were spared" in note for note in again.notes)
    assert not any("seconds were spared" in note for note in first.notes)
    assert adapter_of(again.model).shape_of(again.model.config) != adapter_of(first.model).shape_of(first.model.config)
    written = (tmp_path / "two" / FOLDER / "orders.safetensors").read_bytes()
    assert written == (tmp_path / "one" / FOLDER / "orders.safetensors").read_bytes()


def test_tables_of_other_rows_or_damaged_ones_are_not_read(tmp_path: Path) -> None:
    first, again = encoder_state(tmp_path / "one"), encoder_state(tmp_path / "two", calibration_rows=32)
    list(prune(first))
    again.checkpointer.resume = tmp_path / "one"
    list(prune(again))
    assert not any("seconds were spared" in note for note in again.notes)
    (tmp_path / "one" / FOLDER / "orders.safetensors").write_bytes(b"damaged")
    with pytest.raises(UnusableCheckpoint, match="not what was written"):
        read_tables(tmp_path / "one", "", "0" * 64)


def test_a_job_that_is_paused_in_the_midst_of_the_tables_begins_them_anew(tmp_path: Path) -> None:
    state, asked = encoder_state(tmp_path), []
    state.checkpointer.pause_asked = lambda: len(asked) > 5 or bool(asked.append(None))
    with pytest.raises(Pause):
        list(prune(state))
    assert not (tmp_path / FOLDER).exists()
    again = encoder_state(tmp_path)
    list(prune(again))
    assert (tmp_path / FOLDER / "state.json").is_file()


def test_progress_holds_the_shape_and_the_errors_that_no_ratios_lead_to(tmp_path: Path) -> None:
    state = map_state(tmp_path, target_params=0.3, axes=["channels", "layers"])
    shape = adapter_of(state.model).shape_of(state.model.config)
    scores = ImportanceScores({"channels.0": torch.arange(8.0)}, kept=torch.tensor([0, 2]))
    progress = PruneProgress(scores, (0.1, 0.2), shape=shape, errors={"channels.0": 0.25})
    again = PruneProgress.of_tensors(progress.tensors())
    assert again is not None
    assert (again.shape, again.errors, again.ratios) == (shape, {"channels.0": 0.25}, (0.1, 0.2))
    assert again.scores.kept is not None
    assert again.scores.kept.tolist() == [0, 2]
