"""`python -m bench forecasts`: what a service forecasts of its jobs, beside what they take, by stage.

Starts a service in a home of its own, waits until its worker has measured its rates, and sends jobs one after another: three
that forecasts learn from (the demo's own job, whose forecast knows of no other, and two of other recipes and rows), then three
others. A forecast is that of the job's preflight; the first is to be within 25 % of the time taken, the last three within
20 %. The record says what share of the processors other processes took meanwhile: figures of a busy machine prove nothing.
Some 35 minutes on two calm cores.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import record_file
from bench.examples import EXAMPLES, model_folder
from bench.forecasts.service import Service, running
from bench.others import Others

RECORD = Path(__file__).parent / "records" / "forecasts.json"
SPLITS = {"validation": 200, "test": 300}
"""Rows of the short jobs; train has the case's own. The demo's job has all."""
FIRST, LATER = 0.25, 0.20
"""How far a forecast may be from the time taken, as a share of that: before and after others have taught it."""
LEARNT = 3


@dataclass(frozen=True)
class Case:
    """One job. rows: of train; None: the whole data. changes: in the preset."""

    name: str
    preset: str
    rows: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def _short(name: str, preset: str, rows: int, *, tuned: int, taught: int, general: int = 0, **more: Any) -> Case:
    """Return a short job. tuned, taught, general: epochs of preparation, distillation and its general phase."""
    distill: dict[str, Any] = {"epochs": taught} | ({"general": {"epochs": general}} if general else {})
    return Case(name, preset, rows, {"prepare": {"epochs": tuned}, "distill": distill, **more})


DEMO = Case("the demo's job", "quick")
SHORT = _short("quick, in place of the demo's", "quick", 1500, tuned=2, taught=2)
TEACHING = (
    _short("standard, little data", "standard", 1000, tuned=2, taught=2, general=1),
    _short("quick, cut in half", "quick", 2000, tuned=1, taught=1, prune={"ratio": 0.5}),
)
OTHERS = (
    _short("standard, more data", "standard", 1800, tuned=1, taught=3, general=1),
    _short("quick, longer preparation", "quick", 2500, tuned=2, taught=1),
    _short("smallest", "smallest", 1500, tuned=2, taught=3, general=1),
)


@dataclass(frozen=True)
class Found:
    """One job's forecast and time. learnt: finished jobs that corrected the forecast; low, high: its spread."""

    case: str
    learnt: int
    minutes: float
    low: float | None
    high: float | None
    took: float
    stages: dict[str, tuple[float, float]]
    others: float

    @property
    def off(self) -> float:
        """Return forecast over time taken, less 1."""
        return self.minutes / self.took - 1


def main(arguments: list[str] | None = None) -> None:
    """Run the jobs and print; without --table-only."""
    parser = argparse.ArgumentParser(prog="python -m bench forecasts", description=__doc__)
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where scripts/fetch_examples.py put model and data")
    parser.add_argument("--short", action="store_true", help="a short job in place of the demo's, as the first")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of what was found")
    parser.add_argument("--table-only", action="store_true", help="print the record; run nothing")
    asked = parser.parse_args(arguments)
    if not asked.table_only:
        run((SHORT if asked.short else DEMO, *TEACHING, *OTHERS), asked.examples, asked.record)
    print(table(record_file.read(asked.record)), flush=True)


def run(cases: Sequence[Case], examples: Path, record: Path) -> None:
    """Run the cases on one service; write the record after each, so that what was found stays."""
    model = model_folder("minilm", examples)
    with tempfile.TemporaryDirectory(prefix="lathe-bench-forecasts-") as place, running(Path(place) / "home") as service:
        measured = service.wait_for_rates()
        devices = [worker.facts["device"] for worker in service.lathe.workers() if worker.kind == "jobs"]
        sent = service.lathe.add_model(model)
        found = list[Found]()
        for case in cases:
            data = service.lathe.add_dataset(_rows(examples / "data", case, Path(place)))
            found.append(_job(service, case, sent.id, data.id))
            print(f"{found[-1].case}: forecast {found[-1].minutes:.1f} min, took {found[-1].took:.1f}", flush=True)
            facts = {"rates_measured": measured, "devices": devices, "jobs": [asdict(one) for one in found]}
            record_file.write(record, facts)


def _rows(source: Path, case: Case, place: Path) -> Path:
    """Return a folder with a case's rows."""
    if case.rows is None:
        return source
    folder = place / f"rows-{case.rows}"
    folder.mkdir(exist_ok=True)
    for split, rows in {**SPLITS, "train": case.rows}.items():
        lines = (source / f"{split}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    return folder


def _job(service: Service, case: Case, model: str, data: str) -> Found:
    """Run one job; return its forecast and what it took. Raises SystemExit if it fails."""
    before = Others(service.time.seconds)
    sent = service.lathe.submit(model=model, data=data, recipe={"preset": case.preset, **case.changes}, name=case.name)
    done = service.lathe.wait(sent.id)
    if done.state != "succeeded" or done.started_at is None or done.finished_at is None:
        raise SystemExit(f"{case.name}: {done.state}: {done.error}")
    assert done.estimate is not None, "every job has an estimate"
    took = (done.finished_at - done.started_at).total_seconds() / 60
    minutes = {
        key: done.estimate[name] for key, name in (("minutes", "minutes"), ("low", "minutes_low"), ("high", "minutes_high"))
    }
    about = {"case": case.name, "learnt": done.estimate["jobs"], **minutes, "took": took}
    return Found(**about, stages=service.stage_times(done.id), others=before.share())


def table(record: Mapping[str, Any] | None) -> str:
    """Return a record as two tables: jobs, and their stages. Without a record it says so."""
    if record is None:
        return "not_measured: there is no record"
    found = [Found(**{**one, "stages": {name: tuple(pair) for name, pair in one["stages"].items()}}) for one in record["jobs"]]
    lines = ["| job | learnt from | forecast [spread] | took | off by | asked | within |", "| --- |" + " --- |" * 6]
    lines += [_line(one, FIRST if not one.learnt else LATER if number >= LEARNT else None) for number, one in enumerate(found)]
    stages = list(dict.fromkeys(stage for one in found for stage in one.stages))
    head = ["seconds, forecast without correction → taken", *stages]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join([one.case, *(_stage(one.stages.get(stage)) for stage in stages)]) + " |" for one in found]
    whose = "the worker's own rates" if record["rates_measured"] else "the reference machine's rates, since the worker has none"
    busiest = max((one.others for one in found), default=0.0)
    return "\n".join([*lines, "", f"By {whose}. Other processes took up to {busiest:.0%} of the processors during a job."])


def _line(one: Found, most: float | None) -> str:
    spread = "" if one.low is None or one.high is None else f" [{one.low:.1f}, {one.high:.1f}]"
    asked = ("", "") if most is None else (f"≤ {most:.0%}", "yes" if abs(one.off) <= most else "**no**")
    cells = [one.case, str(one.learnt), f"{one.minutes:.1f} min{spread}", f"{one.took:.1f} min", f"{one.off:+.0%}", *asked]
    return "| " + " | ".join(cells) + " |"


def _stage(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.0f} → {pair[1]:.0f} ({pair[0] / pair[1] - 1:+.0%})"


if __name__ == "__main__":
    main()
