"""Early checks of a search's targets refuse only what is proven, and send signs of life."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from compression.engine.stages.search_refusals import check_search_targets
from compression.planning.search.problem import Problem
from compression.schema.errors import TargetOutOfReach
from tests.compression.engine.stages.test_solved_widths import encoder_state, with_times


@pytest.mark.parametrize("proven", [True, False])
def test_what_is_not_proven_to_be_out_of_reach_is_not_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proven: bool
) -> None:
    state, beats = encoder_state(tmp_path, target_latency={"speed_up": 1.1}), []
    with_times(state)

    def none(space: Any, limits: Any, solve: Any) -> Any:
        solve(Problem(space.choices, space.error, ()))
        raise TargetOutOfReach("nothing", proven=proven)

    monkeypatch.setattr("compression.engine.stages.search_refusals.solve_within", none)
    monkeypatch.setattr("compression.engine.heartbeat.beat", lambda: beats.append(1))
    with pytest.raises(TargetOutOfReach) if proven else nullcontext():
        list(check_search_targets(state))
    assert beats == [1]
