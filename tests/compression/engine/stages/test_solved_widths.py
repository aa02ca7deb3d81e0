"""The stage that prunes takes its widths from the solver: within the targets, with updated weights, tables computed once."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.context import StageContext
from compression.engine.stages import solved_widths
from compression.engine.stages.search_refusals import check_search_targets
from compression.engine.tables_checkpoint import FOLDER, read_tables
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS, NETWORK
from compression.models.architectures.network_shapes import own_axes
from compression.planning.device_times import ShapeTimes
from compression.planning.estimator import artifact_bytes
from compression.planning.search import costs
from compression.planning.search.within import Found
from compression.pruning.prune_progress import PruneProgress
from compression.pruning.scores import ImportanceScores
from compression.schema.errors import MissingResource, TargetOutOfReach
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.report.measurements import Latency
from compression.schema.report.search import TablesUsed
from compression.schema.report.written import plain
from compression.system.interrupts import Pause
from compression.system.sealed_folder import UnusableCheckpoint
from compression.training.save import TrainingCheckpointer
from tests.client.figures import row
from tests.support import decoder_models, placement
from tests.support.device_tables import made_table
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import counter, prune
from tests.support.tiny_bert import state_of, tiny_config
from tests.support.tiny_maps import network_state

USED = TablesUsed(groups=3, rows=64, seconds=2.5, reused=True)


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


@pytest.mark.parametrize("quantize", [None, Quantize()])
def test_bytes_are_a_limit_beside_parameters_and_the_tighter_one_binds(tmp_path: Path, quantize: Quantize | None) -> None:
    for number, (removed, share) in enumerate([(0.1, 0.4), (0.4, 0.1)]):
        state = encoder_state(tmp_path / str(number), target_params=removed, target_bytes=share)
        state.recipe = state.recipe.model_copy(update={"quantize": quantize})
        whole = adapter_of(state.model).parameters_of(state.model)
        most = int(artifact_bytes(whole, quantize) * (1 - share))
        list(prune(state))
        left = adapter_of(state.model).parameters_of(state.model)
        assert artifact_bytes(left, quantize) <= most
        assert 0.5 * whole.total < left.total <= 0.6 * whole.total
        (chose,) = [note for note in state.notes if note.startswith("prune.search solver chose")]
        assert f" bytes of at most {most:,};" in chose


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


def test_a_target_out_of_reach_ends_the_job_with_the_nearest_point(tmp_path: Path) -> None:
    state = encoder_state(tmp_path, target_params=0.5, axes=["ffn"])
    nearest = r"cannot be reached; the nearest point has .* parameters \(3 layers of 32/4/8\)"
    with pytest.raises(TargetOutOfReach, match=nearest) as caught:
        list(prune(state))
    assert caught.value.param == "recipe.prune.target_params"


def test_a_later_job_reads_the_tables_of_an_earlier_one(tmp_path: Path) -> None:
    first, again = encoder_state(tmp_path / "one", target_params=0.3), encoder_state(tmp_path / "two", target_params=0.4)
    list(prune(first))
    again.checkpointer.resume = tmp_path / "one"
    list(prune(again))
    used, computed = again.result.tables, first.result.tables
    assert used is not None
    assert computed is not None
    assert any(f"{used.spared:.1f} seconds were spared" in note for note in again.notes)
    assert not any("seconds were spared" in note for note in first.notes)
    assert (used.seconds, computed.spared) == (computed.seconds, None)
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
    progress = PruneProgress(scores, (0.1, 0.2), shape=shape, errors={"channels.0": 0.25}, tables=USED)
    again = PruneProgress.of_tensors(progress.tensors())
    assert again is not None
    assert (again.shape, again.errors, again.ratios) == (shape, {"channels.0": 0.25}, (0.1, 0.2))
    assert (again.search, again.tables) == (None, USED)
    assert again.scores.kept is not None
    assert again.scores.kept.tolist() == [0, 2]


def test_an_attempt_that_goes_on_with_the_recovery_tells_what_the_search_came_to(tmp_path: Path) -> None:
    asked = {"search": "tpe", "search_budget": {"evaluations": 9}, "target_params": 0.3, "axes": ["channels"]}
    recovery = {"epochs": 1, "rate": 1e-3, "shallow_first": False}
    first = map_state(tmp_path / "one", **asked, recovery=recovery)
    saved: list[Any] = []
    plain = first.resumable
    first.resumable = lambda phase, beside=None: saved.append(beside) or plain(phase, beside)  # type: ignore[method-assign]
    list(prune(first))
    assert first.result.search is not None
    assert first.result.search.chosen.evaluations == 9
    (beside,) = saved
    again = map_state(tmp_path / "two", **asked, recovery=recovery)
    again.saved = lambda phase: beside  # type: ignore[method-assign]
    list(prune(again))
    assert again.result.search == first.result.search
    assert again.result.tables == first.result.tables is not None


def test_whose_widths_are_taken_is_told(tmp_path: Path) -> None:
    asked = {"search": "tpe", "search_budget": {"evaluations": 1}, "target_params": 0.6, "axes": ["channels"]}
    state = map_state(tmp_path, **asked)  # the first even cut takes an eighth: not enough
    list(prune(state))
    assert state.result.search is not None
    assert (state.result.search.chosen.error, state.result.search.won) == (None, "solver")
    assert any(note.startswith("The solver, not prune.search tpe, chose") for note in state.notes)


def latency_of(milliseconds: float) -> Latency:
    found = row("pruned", 1, 1, milliseconds, 0.5).latency
    return found.model_copy(update={"baseline_median_ms": 10.0})


def with_times(state: StageContext) -> ShapeTimes:
    times = ShapeTimes(made_table(), ARCHITECTURE_SPECS["bert"], None, tokens=32)

    def known() -> Generator[Any, None, ShapeTimes]:
        yield from ()
        return times

    state.device_times = known
    return times


def test_a_latency_is_solved_by_prediction_and_again_where_it_is_measured_as_too_slow(tmp_path: Path) -> None:
    state = encoder_state(tmp_path, target_params=0.1, axes=["hidden", "heads", "ffn", "layers"])
    times = with_times(state)
    whole = times.milliseconds(adapter_of(state.model).shape_of(state.model.config), None)
    assert whole is not None
    target = 0.8 * whole
    asked = state.recipe.prune.model_copy(update={"target_latency": TargetLatency(milliseconds=target)})
    state.recipe = state.recipe.model_copy(update={"prune": asked})
    timed: list[float] = []

    def measured(model: Any) -> Latency:
        timed.append(1.2 * times.milliseconds(adapter_of(model).shape_of(model.config), None))
        return latency_of(timed[-1])

    state.timed = measured
    list(prune(state))
    assert timed[0] > target >= timed[-1]
    assert len(timed) > 1
    shape = adapter_of(state.model).shape_of(state.model.config)
    assert 1.2 * times.milliseconds(shape, None) == timed[-1]
    assert any(note.startswith("Timed with drawn weights: predicted") for note in state.notes)


def test_milliseconds_of_several_sizes_are_told_as_predicted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = encoder_state(tmp_path)
    several = state.recipe.prune.model_copy(update={"points": 2})
    shape = adapter_of(state.model).shape_of(state.model.config)
    found = [Found(shape, (0,), 0.25, {"parameters": 10.0 * at, "milliseconds": 1.5 * at}, {}) for at in (2, 1)]
    monkeypatch.setattr(solved_widths, "nested_sizes", lambda *_: tuple(found))
    limits = [costs.parameters(1, lambda _: 1), costs.milliseconds(1, with_times(state), None)]
    space = SimpleNamespace(layer_choices=(), bit_choices=())
    (told,) = solved_widths._sizes(state, several, space, None, found[-1], limits)
    assert f"{shape.short}, 20 parameters, 3 predicted milliseconds, predicted error 0.25; {shape.short}, 10" in told.message
    assert state.notes == [told.message]


def test_of_cuts_that_are_all_measured_as_too_slow_the_fastest_is_taken(tmp_path: Path) -> None:
    state = encoder_state(tmp_path, axes=["hidden", "heads", "ffn", "layers"])
    whole = with_times(state).milliseconds(adapter_of(state.model).shape_of(state.model.config), None)
    assert whole is not None
    target = 0.8 * whole
    asked = state.recipe.prune.model_copy(update={"target_latency": TargetLatency(milliseconds=target)})
    state.recipe = state.recipe.model_copy(update={"prune": asked})
    timed: list[Any] = []

    def measured(model: Any) -> Latency:
        timed.append(adapter_of(model).shape_of(model.config))
        return latency_of((1.3, 1.1, 1.2, 1.15)[len(timed) - 1] * target)

    state.timed = measured
    list(prune(state))
    assert len(timed) > 1
    assert adapter_of(state.model).shape_of(state.model.config) == timed[1]
    assert any(note.endswith("None was fast enough: the fastest was taken.") for note in state.notes)
    chose = [note for note in state.notes if note.startswith("prune.search solver chose")]
    assert len(chose) == len(timed)
    assert all(f"milliseconds of at most {plain(target, 4)};" in note for note in chose)  # as asked, not as corrected


def test_what_no_widths_meet_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(TargetOutOfReach, match="parameters"):
        list(check_search_targets(encoder_state(tmp_path, target_params=0.5, axes=["ffn"])))
    late = encoder_state(tmp_path, target_latency={"milliseconds": 1e-6})
    with pytest.raises(MissingResource, match="needs a device table"):
        list(check_search_targets(late))
    with_times(late)
    with pytest.raises(TargetOutOfReach, match="at most 1e-06 milliseconds cannot be reached; the nearest point has") as caught:
        list(check_search_targets(late))
    assert caught.value.param == "recipe.prune.target_latency"
    for settings in ({"target_params": 0.5}, {"target_latency": {"speed_up": 1.1}}, {}, {"search": None, "target_params": 0.9}):
        state = encoder_state(tmp_path, **settings)
        with_times(state)
        assert list(check_search_targets(state)) == []


def test_an_attempt_that_goes_on_in_recovery_cuts_to_the_same_widths_without_tables(tmp_path: Path) -> None:
    settings = {"target_params": 0.3, "axes": ["channels", "layers"], "recovery": {"epochs": 1, "rate": 1e-3}}
    first, saved = map_state(tmp_path / "one", **settings), []
    plain = first.resumable
    first.resumable = lambda phase, beside=None: saved.append(beside) or plain(phase, beside)  # type: ignore[method-assign]
    list(prune(first))
    (beside,) = saved
    again = map_state(tmp_path / "two", **settings)
    again.saved = lambda phase: beside  # type: ignore[method-assign]
    list(prune(again))
    assert again.result.pruning == first.result.pruning
    assert again.model.config.graph == first.model.config.graph
    assert not (tmp_path / "two" / FOLDER).exists()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_a_decoder_is_cut_within_its_target_in_widths_that_its_config_can_express(tmp_path: Path, kind: str) -> None:
    changes = {"pad_token_id": 0, "num_labels": 2}
    model = decoder_models.tiny(kind, "ForSequenceClassification", **changes)
    asked = Prune.model_validate(
        {
            "search": "solver",
            "calibration_rows": 64,
            "multiple": 8,
            "target_params": 0.3,
            "axes": ["hidden", "heads", "ffn", "layers"],
        }
    )
    state = state_of(model, recipe_of(asked))
    state.checkpointer = TrainingCheckpointer(tmp_path, "")
    before = adapter_of(model).parameters_of(model).total
    list(prune(state))
    family = adapter_of(state.model)
    assert family.parameters_of(state.model).total <= 0.7 * before
    told = state.result.pruning
    assert told["ffn"]["after"] == family.shape_of(state.model.config).ffn
    assert {*told["ffn"]["groups"]} <= {"ffn.0", "ffn.1"}


def test_a_language_model_is_cut_and_judged_by_its_loss(tmp_path: Path) -> None:
    asked = Prune.model_validate({"search": "solver", "calibration_rows": 24, "multiple": 8, "ratio": 0.4})
    train = Train(batch=2, max_length=placement.LENGTH)
    state = placement.decoder(torch.device("cpu"), recipe_of(asked).model_copy(update={"train": train}))
    state.checkpointer = TrainingCheckpointer(tmp_path, "")
    before = adapter_of(state.model).shape_of(state.model.config)
    list(prune(state))
    after = adapter_of(state.model).shape_of(state.model.config)
    assert after != before
    assert any("predicted error" in note for note in state.notes)
    assert any("Error tables of" in note for note in state.notes)
