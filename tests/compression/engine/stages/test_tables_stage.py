"""The stage computes error tables in as few passes as it can, holds what layers read for all cuts, and checks what it reads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compression.engine.stages import error_tables, solved_widths
from compression.engine.tables_checkpoint import FOLDER, read_tables, write_tables
from compression.pruning import layer_inputs
from compression.schema.tables_files import SOLVED
from compression.system.progress import run_silently
from compression.system.sealed_folder import UnusableCheckpoint
from tests.compression.engine.stages.test_solved_widths import encoder_state, map_state
from tests.support.stage_runs import prune


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often calibration rows ran through a model, and how many cuts were made with updated weights."""
    found = {"passes": 0, "cuts": 0}
    observed, cut = layer_inputs.run_observed, solved_widths.updated_cut

    def counted(*asked: Any) -> Any:
        found["passes"] += 1
        return observed(*asked)

    def made(*asked: Any) -> Any:
        found["cuts"] += 1
        return cut(*asked)

    monkeypatch.setattr(layer_inputs, "run_observed", counted)
    monkeypatch.setattr(solved_widths, "updated_cut", made)
    return found


def test_all_cuts_are_updated_from_one_pass_over_the_calibration_rows(tmp_path: Path, counts: dict[str, int]) -> None:
    state = encoder_state(tmp_path / "one", target_params=0.4, axes=["ffn", "hidden", "heads", "layers"])
    list(prune(state))
    assert counts["cuts"] > 1
    assert counts["passes"] == 1
    assert state.layer_inputs is None
    again = encoder_state(tmp_path / "two", target_params=0.4, axes=["ffn", "hidden", "heads", "layers"])
    again.checkpointer.resume = tmp_path / "one"
    list(prune(again))
    assert counts["passes"] == 2
    same = zip(state.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_a_search_s_cut_keeps_the_weights_that_its_tables_assume(tmp_path: Path) -> None:
    plain = encoder_state(tmp_path / "plain", target_params=0.4)
    asked = encoder_state(tmp_path / "asked", target_params=0.4, reconstruct=True)
    for state in (plain, asked):
        list(prune(state))
    pairs = zip(plain.model.state_dict().values(), asked.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    told = [[note for note in state.notes if note.startswith("prune.reconstruct was not done")] for state in (plain, asked)]
    assert [len(notes) for notes in told] == [0, 1]


def test_a_search_times_no_blocks(tmp_path: Path) -> None:
    state = map_state(tmp_path, target_params=0.6, axes=["channels", "layers"])

    def timed(*_: Any) -> Any:
        raise AssertionError("error tables choose the blocks")

    state.timed_beside = timed
    list(prune(state))


@pytest.mark.parametrize(("goes_on", "target"), [(True, 0.3), (True, 0.4), (False, 0.3)])
def test_answers_of_an_earlier_attempt_hold_until_this_one_has_searched(tmp_path: Path, goes_on: bool, target: float) -> None:
    first, again = encoder_state(tmp_path / "one", target_params=0.3), encoder_state(tmp_path / "two", target_params=target)
    list(prune(first))
    if goes_on:
        again.checkpointer.resume = tmp_path / "one"
    else:
        again.known_tables = (tmp_path / "one",)
    again.begin("pruned")
    run_silently(error_tables.error_tables(again))
    assert (tmp_path / "two" / FOLDER / SOLVED).is_file() == (
        goes_on and target == 0.3
    )  # another job's answers are not this one's


@pytest.mark.parametrize("change", [lambda order: order[:-1], lambda order: order.clone().fill_(0), lambda order: order + 1])
def test_tables_whose_orders_are_not_of_all_units_are_not_read(tmp_path: Path, change: Any) -> None:
    state = encoder_state(tmp_path)
    state.begin("pruned")
    tables, orders = run_silently(error_tables.error_tables(state))
    assert read_tables(tmp_path, "", tables.digest)[0] == tables
    orders["ffn.1"] = change(orders["ffn.1"])
    write_tables(tmp_path / "other", "", tables, orders)
    with pytest.raises(UnusableCheckpoint, match=r"other units of ffn\.1"):
        read_tables(tmp_path / "other", "", tables.digest)


def test_tables_are_of_the_rows_however_memory_splits_their_batches(tmp_path: Path) -> None:
    state, again = encoder_state(tmp_path / "one"), encoder_state(tmp_path / "two")
    again.parts, again.known_tables = 2, (tmp_path / "one",)
    found = []
    for each in (state, again):
        each.begin("pruned")
        found.append(run_silently(error_tables.error_tables(each))[0])
    assert found[0].digest == found[1].digest
    assert any("seconds were spared" in note for note in again.notes)
