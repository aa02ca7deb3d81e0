"""Run three tiny jobs by the code of another commit and by this one; print where validation, losses or weights differ.

    python -m scripts.same_as COMMIT

The jobs: an encoder through all stages, a decoder through all stages, and a decoder from file to file. One thread, one machine,
the same inputs; nothing is compared but what must not move when code does: scores, shapes, what was cut, the losses of steps
that both reported, and a digest of each tensor of a checkpoint and of each ONNX file. Ends with 0 if all is the same, else with
1 and the places.
"""

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.support.decoder_models import saved, tiny
from tests.support.examples import jsonl, tiny_model, tiny_rows
from tests.support.tiny_bert import write_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TRAINED: dict[str, Any] = {
    "prepare": {"epochs": 2, "rate": 3e-3},
    "quantize": {"qat": {"full": 1, "ramp": 1, "quantized": 1}},
    "prune": {"ratio": 0.5, "multiple": 8, "calibration_rows": 32, "recovery": {"epochs": 2}},
    "distill": {"epochs": 2, "rate": 3e-3},
    "train": {"batch": 16, "max_length": 32},
}
ROUNDED: dict[str, Any] = {"prepare": {"epochs": 0}, "prune": None, "distill": None, "train": {"max_length": 32}}
SMALL = 500_000_000
"""Memory limit in bytes that makes the engine run a decoder from file to file."""
LABELS: dict[str, Any] = {
    "id2label": {0: "negative", 1: "positive"},
    "label2id": {"negative": 0, "positive": 1},
    "pad_token_id": 0,
}
COMPARED = ("score", "validation", "parameters", "shape", "ratios", "preparation")
"""Fields of a row that are compared; timings are not."""
TIMED = ("latency_reduction", "speed_up", "seconds")


def inputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the jobs' models and data; return each job's specification."""
    tiny_model(folder / "encoder")
    saved(tiny("llama", "ForSequenceClassification", **LABELS), folder / "decoder")
    write_tokenizer(folder / "decoder")
    for seed, (name, count) in enumerate({"train": 96, "validation": 48, "test": 48}.items()):
        (folder / f"{name}.jsonl").write_bytes(jsonl(tiny_rows(count, seed)))
    splits = {name: [str(folder / f"{name}.jsonl")] for name in ("train", "validation", "test")}
    shared = {"data": {"format": "jsonl", "splits": splits}, "evaluate": {"length": 16}, "output": "out", "threads": 1}
    shared["targets"] = {"speed_up": 1e-6}  # which stage ships twice must not hang on what was timed
    return {
        "encoder": {**shared, "model": str(folder / "encoder"), "recipe": TRAINED},
        "decoder": {**shared, "model": str(folder / "decoder"), "recipe": TRAINED},
        "from-file-to-file": {**shared, "model": str(folder / "decoder"), "recipe": ROUNDED, "memory_bytes": SMALL},
    }


def told(tree: Path, folder: Path, spec: dict[str, Any]) -> dict[str, str]:
    """Run a job by a tree's engine; return place → value. Raises SystemExit if the job fails."""
    folder.mkdir(parents=True)
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "compression", "run", str(path)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    if ran.returncode or not events or events[-1]["type"] != "finished":
        raise SystemExit(f"{folder.name} by {tree}: {events[-1:]} {ran.stderr[-2000:]}")
    found = dict(_steps(events))
    report = events[-1]["report"]
    for row in report["rows"]:
        found |= _leaves({name: row.get(name) for name in COMPARED}, row["stage"])
    found |= _leaves(report["pruning"], "pruning")
    # Which stage is shipped as a checkpoint too hangs on what was timed; each stage's own checkpoint does not.
    place = "artifacts" if spec["recipe"]["distill"] is None else "checkpoints"
    return found | dict(_weights(folder / "out" / place)) | dict(_graphs(folder / "out" / "artifacts"))


def _steps(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for event in events:
        if event["type"] == "progress":
            place = f"{event['stage']} {event['phase']} {event['step']}/{event['total']}"
            for name in ("loss", "score", "rate"):
                if event.get(name) is not None:
                    yield f"{place} {name}", repr(event[name])


def _leaves(value: Any, place: str) -> dict[str, str]:
    if isinstance(value, dict):
        below = [(f"{place}.{name}", each) for name, each in value.items() if name not in TIMED]
    elif isinstance(value, list):
        below = [(f"{place}[{number}]", each) for number, each in enumerate(value)]
    else:
        return {place: repr(value)}
    return {name: leaf for each, inner in below for name, leaf in _leaves(inner, each).items()}


def _weights(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name).contiguous().flatten()
                data = tensor.view(torch.uint8).numpy().tobytes()
                yield f"{path.relative_to(folder)} {name}", hashlib.sha256(data).hexdigest()[:16]


def _graphs(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.onnx*")):
        yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out beside this tree."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the places that differ. Steps that only one side reported are ignored: progress is sampled."""
    steps = {place for place in before.keys() ^ after.keys() if place.endswith((" loss", " score", " rate"))}
    return [
        f"{place}: {before.get(place, 'nothing')} → {after.get(place, 'nothing')}"
        for place in sorted((before.keys() | after.keys()) - steps)
        if before.get(place) != after.get(place)
    ]


def main() -> int:
    """Run and compare; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.same_as", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("commit", help="the commit to compare with")
    asked = parser.parse_args()
    moved = 0
    with (
        tempfile.TemporaryDirectory(prefix="lathe-same-as-") as place,
        checked_out(asked.commit, Path(place) / "tree") as other,
    ):
        folder = Path(place)
        for name, spec in inputs(folder).items():
            sides = [told(tree, folder / side / name, spec) for side, tree in (("before", other), ("after", ROOT))]
            found = differences(*sides)
            moved += len(found)
            print(f"{name}: {len(sides[1])} values, {len(found)} differ", *found[:40], sep="\n  ", flush=True)
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
