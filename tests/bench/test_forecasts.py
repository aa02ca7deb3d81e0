"""Forecasts beside times: what is within the bound says so, and what other processes took is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.forecasts import __main__ as bench
from bench.others import Others, ProcessTime
from compression.schema.recipe.presets import merged, preset
from compression.schema.recipe.recipe import Recipe
from tests.conftest import wait_for


@pytest.mark.parametrize("case", [bench.SHORT, *bench.TEACHING, *bench.OTHERS])
def test_short_jobs_are_recipes_of_their_presets_with_fixed_epochs(case: bench.Case) -> None:
    found = Recipe.model_validate(merged(preset(case.preset, "text-classification"), case.changes))
    assert found.prepare.epochs is not None
    assert found.distill is not None
    assert found.prepare.epochs + found.distill.epochs <= 5
    assert len({one.name for one in (bench.DEMO, bench.SHORT, *bench.TEACHING, *bench.OTHERS)}) == 7


def test_rows_are_the_first_of_each_split(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for split in ("train", "validation", "test"):
        (source / f"{split}.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(2000)))
    place = bench._rows(source, bench.TEACHING[0], tmp_path)
    counts = {path.stem: len(path.read_text().splitlines()) for path in place.iterdir()}
    assert counts == {"train": 1000, "validation": 200, "test": 300}
    assert bench._rows(source, bench.DEMO, tmp_path) == source


def found(case: str, learnt: int, minutes: float, took: float) -> dict[str, object]:
    stages = {"baseline": (60.0, 50.0)}
    spread = {"low": None, "high": None} if learnt < 3 else {"low": 1.8, "high": 2.2}
    return {"case": case, "learnt": learnt, "minutes": minutes, **spread, "took": took, "stages": stages, "others": 0.4}


def test_a_forecast_is_held_against_its_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [found("first", 0, 1.2, 1.0), found("second", 1, 2.0, 1.0), found("third", 2, 1.0, 1.0)]
    jobs += [found("good", 3, 2.0, 2.2), found("bad", 4, 2.0, 1.0)]
    (tmp_path / "record.json").write_text(json.dumps({"rates_measured": False, "jobs": jobs}))
    bench.main(["--table-only", "--record", str(tmp_path / "record.json")])
    told = capsys.readouterr().out.splitlines()
    assert told[2] == "| first | 0 | 1.2 min | 1.0 min | +20% | ≤ 25% | yes |"
    assert told[3].endswith("| +100% |  |  |")  # what it learns from is held against nothing
    assert told[5] == "| good | 3 | 2.0 min [1.8, 2.2] | 2.2 min | -9% | ≤ 20% | yes |"
    assert told[6].endswith("| ≤ 20% | **no** |")
    assert "| first | 60 → 50 (+20%) |" in told
    assert told[-1].startswith("By the reference machine's rates")
    assert "up to 40% of the processors" in told[-1]


def test_what_others_take_is_the_machines_time_less_the_benchs(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 30.0, 100.0, 120.0])

    clock = iter([0.0, 100.0])
    busy = iter([0.0, 50.0])
    monkeypatch.setattr("bench.others.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("bench.others.os.cpu_count", lambda: 2)
    monkeypatch.setattr(Others, "_busy", staticmethod(lambda: next(busy)))
    assert Others(lambda: next(seconds)).share() == pytest.approx((50 - 30) / 200)


BUSY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the child: the kernel adds its time to nobody's
subprocess.run([sys.executable, "-c", "import os, sys\\nwhile not os.path.exists(sys.argv[1]): pass", sys.argv[1]])
print("ended", flush=True)
time.sleep(60)
"""


def test_the_time_of_a_process_that_has_ended_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.others.SAMPLE_SECONDS", 0.05)
    enough = tmp_path / "enough"
    with subprocess.Popen([sys.executable, "-c", BUSY, str(enough)], stdout=subprocess.PIPE, text=True) as process:
        try:
            time = ProcessTime(process.pid)
            with time.watched():
                wait_for(lambda: time.seconds() > 0.5, 120)
                enough.touch()
                assert process.stdout is not None
                assert process.stdout.readline() == "ended\n"
            assert time.seconds() > 0.5
        finally:
            process.kill()
