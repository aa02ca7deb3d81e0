"""Runs the engine in a folder of its own, resumable after a kill, as a worker does but without the service."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compression.schema.events import Failed, Progress, StageFinished, TablesSaved, TrainingSaved, Working, parse_event
from compression.schema.job_spec import Spec
from compression.schema.report.report import Report
from compression.schema.tables_files import TABLES

ROOT = Path(__file__).parent.parent
SAVE_SECONDS, STOP_SECONDS = 120.0, 60.0
ENGINE, PAUSED = [sys.executable, "-m", "compression", "run"], 3


@dataclass(frozen=True)
class Run:
    """A finished run. `validation`: best score on validation of each stage's trainings; `seconds`: all attempts together."""

    folder: Path
    report: Report
    validation: dict[str, float]
    seconds: float

    def artifact(self, name: str) -> Path:
        """Return the folder of an artifact."""
        return self.folder / "artifacts" / name

    def kept(self, stage: str) -> Path:
        """Return the folder of the model after a stage: a float32 checkpoint of stock transformers."""
        return self.folder / "kept" / stage


class Stopped(SystemExit):
    """The minutes of this call are over; what was saved stays, and the same call goes on from there."""


def run(
    folder: Path, spec: dict[str, Any], keep: set[str] | None = None, after: Path | None = None, minutes: float | None = None
) -> Run:
    """Run the engine with `spec`, or return the result of an earlier call with the same spec; a run of another spec is removed.

    A note on standard output tells if the earlier call ran other code than the present one.
    spec: the fields of `job_spec.Spec` other than output and resume. keep: kinds of artifacts whose files stay;
    None keeps all. after: folder of a finished run; stages that are the same in both are taken from there. minutes: after which
    the call ends: the engine is asked to save and stop STOP_SECONDS before, and killed then. Raises Stopped if it was not done
    by then, and SystemExit where the engine fails, with its last words.
    """
    done = folder / "done.json"
    kept, out, path = folder / "kept", folder / "out", folder / "spec.json"
    whole = Spec(**spec, output=str(out), resume=str(kept), save_seconds=SAVE_SECONDS)
    if path.is_file() and not _is_same(path, whole):
        shutil.rmtree(folder)
    if not done.is_file():
        if after is not None and not kept.exists():
            shutil.copytree(after / "kept", kept)
        kept.mkdir(parents=True, exist_ok=True)
        path.write_text(whole.model_dump_json(indent=1), encoding="utf-8")
        _attempt(folder, minutes)
        _tidy(folder, keep)
    facts = json.loads(done.read_text("utf-8"))
    if (now := revision()) != facts.get("revision"):
        print(f"{folder}: found as it was left by {facts.get('revision') or 'an earlier version'}; this is {now}", flush=True)
    report = Report.model_validate(json.loads((folder / "report.json").read_text("utf-8")))
    return Run(folder, report, facts["validation"], facts["seconds"])


def _is_same(path: Path, spec: Spec) -> bool:
    """Return whether a spec on disk requests the same run. Missing keys have their defaults; threads do not count."""
    try:
        found = Spec.model_validate_json(path.read_bytes())
    except ValidationError:
        return False
    # As they are written: a field may hold one of a kind of what is read again (`Evaluate` where a job has its own).
    return found.model_copy(update={"threads": spec.threads}).model_dump() == spec.model_dump()


def _attempt(folder: Path, minutes: float | None) -> None:
    kept, out = folder / "kept", folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    facts_path = folder / "facts.json"
    facts: dict[str, Any] = {"validation": {}, "seconds": 0.0}
    if facts_path.is_file():
        facts = json.loads(facts_path.read_text("utf-8"))
    before, started = facts["seconds"], time.monotonic()
    command = [*ENGINE, str(folder / "spec.json"), "--die-with-parent"]
    with (folder / "log").open("ab") as log, (folder / "events.jsonl").open("ab", buffering=0) as events:
        started_engine = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        with started_engine as engine, _limit(engine, minutes) as over:
            assert engine.stdout is not None
            for line in engine.stdout:
                event = parse_event.validate_json(line)
                if isinstance(event, Progress) and event.score is not None:
                    best = facts["validation"].get(event.stage, event.score)
                    facts["validation"][event.stage] = max(best, event.score)
                if isinstance(event, Progress | Working):
                    continue
                events.write(line)
                if isinstance(event, StageFinished):
                    # The checkpoint last: an attempt that finds it does not write the artifact again.
                    _take(out / "artifacts" / event.row.artifact, folder / "artifacts" / event.row.artifact)
                    _take(out / "checkpoints" / event.row.stage, kept / event.row.stage)
                elif isinstance(event, TablesSaved):
                    _take(out / "checkpoints" / TABLES, kept / TABLES)
                elif isinstance(event, TrainingSaved):
                    _take(out / "checkpoints" / event.folder, kept / "training", move=True)
                elif isinstance(event, Failed):
                    raise SystemExit(f"{folder.name}: {event.code}: {event.cause}\n{event.remedy}")
                if isinstance(event, StageFinished | TrainingSaved):
                    facts["seconds"] = before + time.monotonic() - started
                    facts_path.write_text(json.dumps(facts), encoding="utf-8")
        if over.is_set() and engine.returncode in (PAUSED, -signal.SIGKILL):
            raise Stopped(f"{folder.name}: stopped after {minutes:g} minutes; the same command goes on from the last save")
        if engine.returncode:
            raise SystemExit(f"{folder.name}: the engine ended with {engine.returncode}; see {folder / 'log'}")
    facts["seconds"], facts["revision"] = before + time.monotonic() - started, revision()
    facts_path.write_text(json.dumps(facts), encoding="utf-8")


@contextmanager
def _limit(engine: "subprocess.Popen[bytes]", minutes: float | None) -> Iterator[threading.Event]:
    """Ask the engine to pause STOP_SECONDS before the minutes are over, and kill it then. Yield whether it was asked."""
    over = threading.Event()

    def ask() -> None:
        over.set()
        assert engine.stdin is not None
        with suppress(OSError):  # it has just ended
            engine.stdin.write(b"pause\n")
            engine.stdin.flush()

    seconds = [] if minutes is None else [max(60 * minutes - STOP_SECONDS, 0.0), 60 * minutes]
    timers = [threading.Timer(after, act) for after, act in zip(seconds, (ask, engine.kill), strict=False)]
    for timer in timers:
        timer.start()
    try:
        yield over
    finally:
        for timer in timers:
            timer.cancel()


def revision() -> str:
    """Return the commit of this tree, with "-dirty" if files differ from it; records, which runs write, do not count."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    differ = _git("diff", "HEAD", "--name-only", "--", ".", ":(exclude,glob)bench/**/records/**")
    return f"{commit}-dirty" if differ else commit


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _take(source: Path, target: Path, *, move: bool = False) -> None:
    target.parent.mkdir(exist_ok=True)
    # The old one goes only once the new one is whole beside it; a kill in between costs the save, not the run.
    beside = target.with_name(f".{target.name}")
    shutil.rmtree(beside, ignore_errors=True)
    if move:
        source.rename(beside)
    else:
        shutil.copytree(source, beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def _tidy(folder: Path, keep: set[str] | None) -> None:
    """Keep the report, the artifacts and the checkpoints that other runs can resume from."""
    out = folder / "out"
    report = Report.model_validate(json.loads((out / "report.json").read_text("utf-8")))
    shutil.copytree(out / "artifacts", folder / "artifacts", dirs_exist_ok=True)
    for artifact in report.artifacts:
        if keep is not None and artifact.kind not in keep:
            shutil.rmtree(folder / "artifacts" / artifact.name, ignore_errors=True)
    shutil.copyfile(out / "report.json", folder / "report.json")
    (folder / "facts.json").rename(folder / "done.json")
    for place in (out, folder / "kept" / "training"):
        shutil.rmtree(place, ignore_errors=True)
