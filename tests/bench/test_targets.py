"""What answers to targets promise: steps go on from their records, and tables follow from made records."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.engine import Stopped
from bench.targets import __main__ as bench, decoder, milliseconds, ranks, searches, widths
from bench.targets.figures import offs, ranked
from bench.targets.steps import Clock, Facts, Place, Step, run_steps
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape
from tests.compression.planning.search.test_spaces import SHAPE

RECIPE = Recipe().model_dump(mode="json")


def made(steps: list[str], name: str, **about: Any) -> Step:
    def make(_: Clock) -> Facts:
        steps.append(name)
        return {"found": name}

    return Step(name, about, make)


def test_a_step_that_has_a_record_of_the_same_inputs_is_not_done_again(tmp_path: Path) -> None:
    done = list[str]()
    run_steps([made(done, "one", rows="a", recipe=RECIPE), made(done, "two", rows="a")], tmp_path, Clock())
    older = json.loads((tmp_path / "one.json").read_text("utf-8"))
    assert (older["found"], older["environment"]["processor"] != "", 0 <= older["others"] <= 1) == ("one", True, True)
    del older["about"]["recipe"]["train"]["checkpointing"]  # as a version wrote it that had no such key
    (tmp_path / "one.json").write_text(json.dumps(older))
    run_steps([made(done, "one", rows="a", recipe=RECIPE), made(done, "two", rows="b")], tmp_path, Clock())
    assert done == ["one", "two", "two"]
    changed = {**RECIPE, "train": {**RECIPE["train"], "seed": 1}}
    assert made(done, "one", rows="a", recipe=changed).kept(tmp_path) is None


def test_a_call_ends_with_its_minutes_and_the_next_goes_on(tmp_path: Path) -> None:
    done = list[str]()
    clock = Clock(9)
    assert clock.left() == pytest.approx(9, abs=0.1)

    def last(_: Clock) -> Facts:
        clock.ended = 0.0
        return {}

    steps = [Step("one", {}, last), made(done, "two")]
    with pytest.raises(Stopped, match="the same command goes on"):
        run_steps(steps, tmp_path, clock)
    assert done == []
    run_steps(steps, tmp_path, Clock())
    assert done == ["two"]
    assert Clock().left() is None


def test_predictions_are_off_by_the_share_of_what_was_measured() -> None:
    found = offs([1.02, 0.9, 1.0, 0.97, 1.04])
    assert (found.median, found.worst) == pytest.approx((0.03, 0.1))


def test_predictions_rank_and_cover() -> None:
    found = ranked([0.9, 0.8, 0.7, 0.6], [0.02, 0.02, 0.02, 0.1], [0.91, 0.85, 0.69, 0.52])
    assert (found.correlation, found.covered, found.count) == (pytest.approx(1.0), 3, 4)
    assert ranked([0.9, 0.8, 0.7, 0.6], [0.0] * 4, [0.5, 0.6, 0.7, 0.8]).correlation == pytest.approx(-1.0)


def keep(folder: Path, name: str, **facts: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(facts))


def shape(**changes: int) -> dict[str, Any]:
    return SHAPE.model_copy(update=changes).model_dump(mode="json")


def printed(part: str, records: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    bench.main([part, "--table-only", "--records", str(records)])
    return capsys.readouterr().out.splitlines()


def test_milliseconds_are_within_their_bounds_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"shape": shape(), "spread": 0.1, "original": 8.0}
    near = [{**one, "predicted": ratio * 2.0, "milliseconds": 2.0} for ratio in (0.96, 1.0, 1.09)]
    far = [{**one, "predicted": ratio * 2.0, "milliseconds": 2.0} for ratio in (1.0, 1.0, 1.11)]
    keep(tmp_path / "milliseconds", "device-table", table={})
    keep(tmp_path / "milliseconds", "encoder", shapes=near, original_predicted=8.4, others=0.02)
    keep(tmp_path / "milliseconds", "network", shapes=far, original_predicted=8.0, others=0.5)
    lines = printed("milliseconds", tmp_path, capsys)
    assert lines[2] == "| encoder | 3 | 4.0% | 9.0% | yes | 8.40 / 8.00 ms (1.050) | 2% |"
    assert lines[3] == "| network | 3 | 0.0% | 11.0% | **no** | 8.00 / 8.00 ms (1.000) | 50% |"
    assert sum(line.endswith("| 1.000 |") for line in lines) == 3


def test_a_shape_is_timed_again_while_the_original_is_slow() -> None:
    times = {8: [30.0], 16: [45.0, 44.0, 31.0], 24: [30.5]}
    shapes = [Shape.model_validate(shape(ffn=width)) for width in times]
    found = milliseconds.steady(shapes, lambda one: {"original": times[one.ffn].pop(0)})
    assert found == {"shapes": [{"original": 30.0}, {"original": 31.0}, {"original": 30.5}], "timed_again": 2}
    never = milliseconds.steady(shapes, lambda one: {"original": 45.0 if one.ffn == 16 else 30.0})
    assert never["timed_again"] == milliseconds.TRIES


def cut(predicted: float | None, came: float, error: float = 0.02) -> dict[str, Any]:
    score = None if predicted is None else {"value": predicted, "standard_error": error}
    answer = {"point": {"score": score, "shape": shape(), "error": 0.4}, "no_score": None if score else "Nothing says how."}
    return {"answer": answer, "score": {"value": came}, "shape": shape(ffn=64), "parameters": 8_000_000}


def test_ranks_and_cover_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "ranks"
    for number, (predicted, came) in enumerate(((0.95, 0.94), (0.9, 0.91), (0.8, 0.7), (None, 0.6))):
        keep(place, f"cut-{number}", **cut(predicted, came))
    keep(place, "reference", tables={})
    lines = printed("ranks", tmp_path, capsys)
    assert lines[2].endswith("| 95.00% ± 2.00% | 94.00% | yes |")
    assert lines[4].endswith("| 80.00% ± 2.00% | 70.00% | **no** |")
    assert "(predicted of " in lines[2]
    assert lines[5].endswith("| Nothing says how. | 60.00% | – |")
    assert lines[-2:] == [
        "Rank correlation 1.00 over 3 cuts (at least 0.8: yes).",
        "The stated error covers 2 of 3 (at least two thirds: yes).",
    ]


def both(wrong: int, fast: float) -> dict[str, Any]:
    """A record: uniform widths with 40 answers wrong and 5 times as fast, and free ones."""
    times = {"original": 10.0, "uniform": 10 / 5, "free": 10 / fast}
    return {"sides": {"uniform": side(40), "free": side(wrong)}, "milliseconds": times}


def side(wrong: int) -> dict[str, Any]:
    wanted = [float(number % 2) for number in range(200)]
    after = [1 - one if number < wrong else one for number, one in enumerate(wanted)]
    answers = {"before": wanted, "after": after, "wanted": wanted}
    return {"shape": shape(), "validation": {"value": 0.9}, "parameters": 5_000_000, "bytes": 14_000_000, "answers": answers}


@pytest.mark.parametrize(("wrong", "verdict"), [(10, "ahead"), (40, "neither ahead nor behind"), (80, "behind")])
def test_free_widths_are_ahead_only_if_the_interval_says_so(
    wrong: int, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sst2", "banking77"):
        for seed in (0, 1):
            keep(tmp_path / "free-or-uniform", f"{name}-{seed}", **both(wrong, 5.1))
    lines = printed("free-or-uniform", tmp_path, capsys)
    assert lines[2] == f"| banking77 | free | 2 | {SHAPE.short} | 5.00 M | 5.10, 5.10 | 90.00% | {1 - wrong / 200:.2%} |" or (
        lines[3] == f"| banking77 | free | 2 | {SHAPE.short} | 5.00 M | 5.10, 5.10 | 90.00% | {1 - wrong / 200:.2%} |"
    )
    points = 100 * (40 - wrong) / 200
    assert f"mean of 2 sets: {points:+.2f} points" in lines[-2]
    assert lines[-1] == f"Free widths are {verdict}."


@pytest.mark.parametrize(
    ("fast", "why"), [(5.6, "5.00 times (uniform) and 5.60 times (free)"), (4.5, "one is 4.50 times as fast")]
)
def test_sides_that_are_not_equally_fast_are_not_compared(
    fast: float, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path / "free-or-uniform", "sst2-0", **both(10, fast))
    last = printed("free-or-uniform", tmp_path, capsys)[-1]
    assert last.startswith("Not at equal milliseconds: ")
    assert why in last


@pytest.mark.parametrize(("wrong", "verdict"), [(10, "ahead"), (40, "neither ahead nor behind"), (80, "behind")])
def test_chosen_bits_are_ahead_only_if_the_interval_says_so(
    wrong: int, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = SHAPE.model_copy(update={"eight_bits": (1,)})
    for name in ("sst2", "banking77"):
        found = {**side(wrong), "shape": mixed.model_dump(mode="json") if name == "sst2" else shape()}
        keep(tmp_path / "bits", f"{name}-0", sides={"four": side(40), "mixed": found})
    lines = printed("bits", tmp_path, capsys)
    assert f"| sst2 | mixed | 1 | {mixed.short} | 14.00 | 90.00% | {1 - wrong / 200:.2%} |" in lines
    assert f"mean of 2 sets: {100 * (40 - wrong) / 200:+.2f} points" in lines[-2]
    assert lines[-1] == f"Chosen bits are {verdict}; 1 of 2 jobs have layers in 8 bits."


def test_a_decoder_s_losses_are_paired_by_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    tokens = [100, 300, 200]
    hard = draw.uniform(2, 4, 3) * tokens
    for name, added in (("language", 0.3), ("solver", 0.2)):
        losses = {
            key: {"tokens": tokens, "bytes": tokens, "loss": (hard + more * np.array(tokens)).tolist(), "right": [1, 2, 3]}
            for key, more in (("before", 0.0), ("after", added))
        }
        about = {"recipe": {"distill": {"epochs": 2}}}
        count = {"before": 100_000_000, "after": 70_000_000}
        keep(tmp_path / "decoder", name, about=about, shape=shape(), tokens=1000, parameters=count, **losses)
    lines = printed("decoder", tmp_path, capsys)
    assert lines[2].startswith(f"| language | 70.0 M (-30.0%) | {SHAPE.short} | 2,000 |")
    assert (
        lines[-1]
        == "Loss of `solver` less that of `language`, of 3 texts: -0.1000 [-0.1000, -0.1000] nats a token (below: yes)."
    )
    uneven = {
        "loss": np.add(hard, [40.0, -60.0, -10.0]).tolist(),
        **{key: losses["after"][key] for key in ("tokens", "bytes", "right")},
    }
    keep(
        tmp_path / "decoder",
        "solver",
        about=about,
        shape=shape(),
        tokens=1000,
        parameters=count,
        before=losses["before"],
        after=uneven,
    )
    assert "(below: cannot tell)" in printed("decoder", tmp_path, capsys)[-1]


@pytest.mark.parametrize("name", list(decoder.SIDES))
def test_all_sides_of_a_decoder_remove_the_same_share(name: str) -> None:
    recipe = decoder.PLAN.at(name)
    assert recipe.prune is not None
    assert recipe.distill is not None
    assert (recipe.prune.target_params, recipe.distill.epochs, recipe.prepare.epochs) == (decoder.REMOVED, 1, 0)
    assert recipe.prune.search == (None if name == "language" else "solver")
    assert (recipe.auto is not None) == (name == "auto")


def test_plans_are_what_is_promised() -> None:
    assert len({*ranks.PLAN.removed} - {ranks.PLAN.reference}) == 12
    assert milliseconds.SHAPES == 20
    uniform, free = (widths.PLAN.at(side, 1) for side in widths.SIDES)
    assert uniform.prune is not None
    assert (uniform.prune.search, uniform.prune.free_widths) == ("solver", False)
    assert free == uniform.model_copy(update={"prune": uniform.prune.model_copy(update={"free_widths": True})})
    assert (len(widths.PLAN.sets), len(widths.PLAN.seeds), free.train.seed) == (4, 2, 1)


def test_searches_are_those_of_their_own_bench_and_end_with_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, tmp_path, tmp_path, tmp_path / "records" / "searches")
    monkeypatch.setattr(
        searches, "COMMAND", (sys.executable, "-c", "print('encoder-seconds-tpe-0'); print('| encoder | tpe |')")
    )
    run_steps(searches.steps(place), place.records, Clock())
    capsys.readouterr()
    assert printed("searches", tmp_path / "records", capsys) == ["| encoder | tpe |"]
    monkeypatch.setattr(searches, "COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(Clock, "left", lambda _: 0.001)
    with pytest.raises(Stopped, match="bench/search/records"):
        searches._compared(place, Clock())
