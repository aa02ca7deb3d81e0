"""`python -m tests.chaos.ranks --kills 100 --seed 1`: jobs of two processes, of which one is killed at random, again and again.

Half of the kills, by chance, meet the process that started the others, which then says nothing more; of another one the attempt
has to fail with `rank_lost`. Each attempt ends within seconds and leaves no process behind; the next one goes on from the last
save, and a job ends with the weights of one that nobody disturbed. Exit code 0 only if all of that was so.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertModel

from compression.schema.errors import RankLost
from compression.schema.events import Event, Failed, Finished, StageFinished, TrainingSaved, parse_event
from tests.support.engine_jobs import asked_of
from tests.support.tiny_bert import sentences, tiny_config, write_rows, write_tokenizer

RECIPE = {
    "prepare": {"epochs": 2, "rate": 3e-3},
    "quantize": None,
    "prune": None,
    "distill": {"epochs": 2, "rate": 3e-3, "hidden": 1.0},
    "train": {"batch": 32, "max_length": 32, "devices": 2, "precision": "float32"},
    "artifacts": [],
}
MOST_STEPS = 6
"""Steps of an attempt after which its kill comes at the latest; a job has twenty."""
LATE = 20.0
"""Seconds after a kill by which its attempt has to have ended: the kernel, and one look at the children."""
SILENT = "crashed"
"""What an attempt ends with whose engine says nothing: a worker knows it by the exit code."""
TOLERANCE = 1e-5
"""Largest difference of two weights. The same processes add in the same order; nothing is drawn, for there is no dropout."""
LAST = "distilled"


@dataclass
class Attempts:
    """A job's attempts, with what a worker keeps between them."""

    place: Path
    steps: int = 0  #: of all attempts, repeated ones too
    codes: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)  #: the codes by what was killed
    late: list[float] = field(default_factory=list)  #: seconds from a kill to the end of its attempt
    unharmed: int = 0  #: kills that met no training: the next one has new processes, and the attempt goes on
    left: list[int] = field(default_factory=list)  #: processes that outlived their engine

    def run(self, kill_at: int | None, draw: random.Random) -> bool:
        """Run one attempt; kill one of its processes at a step. Return whether the job has finished."""
        shutil.rmtree(self.place / "out", ignore_errors=True)
        asked = asked_of(self.place / "model", self.place, recipe=RECIPE, save_seconds=0.0)
        if (self.place / "resume").is_dir():
            asked["resume"] = "resume"
        spec = self.place / "spec.json"
        spec.write_text(json.dumps(asked), "utf-8")
        command = [sys.executable, "-m", "compression", "run", str(spec), "--die-with-parent"]
        finished, first, steps, killed, failures = False, False, 0, 0.0, len(self.codes)
        processes: list[psutil.Process] = []
        with (self.place / "log").open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as engine:
            for event in _events(engine):
                self._keep(event)
                finished = finished or isinstance(event, Finished)
                if isinstance(event, Failed):
                    self.codes.append(event.code)
                if isinstance(event, TrainingSaved):  # after each step
                    steps += 1
                    if kill_at is not None and steps == kill_at:
                        processes = psutil.Process(engine.pid).children()
                        time.sleep(draw.uniform(0, 0.05))  # anywhere in the next steps
                        first = draw.random() < 0.5
                        killed = time.monotonic()
                        (engine if first else next(one for one in processes if "rank" in one.cmdline())).kill()
        self.steps += steps
        if not finished and len(self.codes) == failures:
            self.codes.append(SILENT)
        self.left += [one.pid for one in processes if not _ends(one)]
        if killed and not finished:
            self.late.append(time.monotonic() - killed)
            self.expected.append(SILENT if first else RankLost.code)
        self.unharmed += bool(killed) and finished
        return finished

    def _keep(self, event: Event) -> None:
        checkpoints, kept = self.place / "out" / "checkpoints", self.place / "resume"
        if isinstance(event, TrainingSaved):
            _replace(checkpoints / event.folder, kept / "training")
        elif isinstance(event, StageFinished):
            _replace(checkpoints / event.row.stage, kept / event.row.stage)
            shutil.rmtree(kept / "training", ignore_errors=True)

    def weights(self) -> dict[str, Tensor]:
        """Return the last model's weights."""
        (file,) = (self.place / "resume" / LAST).rglob("model.safetensors")
        return load_file(file)


def _events(engine: "subprocess.Popen[bytes]") -> Iterator[Event]:
    assert engine.stdout is not None
    for line in engine.stdout:
        if not line.endswith(b"\n"):
            return  # it was killed within this one
        yield parse_event.validate_json(line)


def _replace(new: Path, old: Path) -> None:
    """Take a folder of the engine's: one that reads it still has it, as `copytree` leaves it there."""
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(new, old)
    if old.name == "training":
        shutil.rmtree(new)


def _ends(process: psutil.Process) -> bool:
    """Return whether a process ends soon; one whose end nobody has asked for has ended."""
    with suppress(psutil.NoSuchProcess):
        end = time.monotonic() + LATE
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    return True


def prepared(place: Path) -> Attempts:
    """Write a job's model and rows."""
    place.mkdir(parents=True)
    torch.manual_seed(0)
    BertModel(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).save_pretrained(place / "model")
    write_tokenizer(place / "model")
    write_rows(place / "train.jsonl", sentences(160, seed=1))
    write_rows(place / "test.jsonl", sentences(40, seed=2))
    return Attempts(place)


def rampage(root: Path, kills: int, seed: int, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Kill so many processes of as many jobs as that takes; return what was not as promised."""
    draw, problems = random.Random(seed), list[str]()
    whole = prepared(root / "whole")
    if not whole.run(None, draw):
        return [f"an undisturbed job failed: {whole.codes}"]
    number = done = 0
    while done < kills:
        number += 1
        job = prepared(root / f"job-{number}")
        while not job.run(draw.randint(1, MOST_STEPS) if done + len(job.late) < kills else None, draw):
            if job.codes != job.expected:
                return [*problems, f"job {number}: its attempts ended with {job.codes}, its kills were {job.expected}"]
        problems += [f"job {number}: an attempt ended {late:.0f} s after its kill" for late in job.late if late > LATE]
        problems += [f"job {number}: process {pid} outlived its engine" for pid in job.left]
        ours, theirs = job.weights(), whole.weights()
        apart = max((ours[name] - theirs[name]).abs().max().item() for name in theirs)
        if apart > TOLERANCE:
            problems.append(f"job {number}: a weight differs by {apart:.2g} after {len(job.late)} kills")
        done += len(job.late)
        steps = f"{job.steps} steps ({whole.steps} undisturbed)"
        beside = f", {job.unharmed} between trainings" * bool(job.unharmed)
        firsts = job.expected.count(SILENT)
        say(f"job {number}: {len(job.late)} kills, {firsts} of the first{beside}, {steps}, weights differ by {apart:.2g}")
        shutil.rmtree(job.place)
    return problems


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; print what was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.ranks", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="all chance comes from it")
    asked = parser.parse_args()
    os.environ["LATHE_TESTS_COLD"] = "1"
    with tempfile.TemporaryDirectory(prefix="lathe-ranks-") as folder:
        problems = rampage(Path(folder), asked.kills, asked.seed, _say)
    _say("\n".join(problems) or f"{asked.kills} kills, nothing lost")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
