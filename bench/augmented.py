"""`python -m bench augmented`: a small job of `article` with WordNet and Apertium, and the rows that they make.

The preset as it is, but for the trainings' lengths (SHORT, and `--rows` of the demo's data), since what is looked at is the
augmentation: which sources were used, how many rows each made, and that a job comes to its end with them. Scores are of one
seed and few rows, and nothing is claimed from them. Needs what `make setup-system` installs.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import engine
from compression.schema.job_spec import Data
from compression.schema.recipe.presets import ARTICLE, merged
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row, Score

ROOT = Path(__file__).parent.parent
SHORT: dict[str, Any] = {
    "quantize": {"qat": {"full": 1, "ramp": 2, "quantized": 1}},
    "prune": {"recovery": {"epochs": 6}, "sensitivity": False},
    "distill": {"epochs": 3, "general": {"epochs": 1}, "teachers": {"seeds": 1}},
}
"""What the run changes in the preset: QAT 1/2/1 epochs for 5/10/5, recovery 6 for 20, distillation 3 for 10, its general phase
1 for 3, one teacher for three, no curves."""
SHARES = {"train": 1.0, "validation": 0.25, "test": 0.5}
"""Rows of each split, as shares of `--rows`."""
PACKAGES = ("apertium", "apertium-eng-spa", "wordnet-base")


def main(arguments: list[str] | None = None) -> None:
    """Run the job if its folder has no report yet; print the result, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench augmented", description=__doc__)
    parser.add_argument("--examples", type=Path, default=ROOT / ".cache/examples", help="the demo's model and data")
    parser.add_argument("--rows", type=int, default=400, help="of train, the first ones")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-augmented", help="where the run is kept")
    parser.add_argument("--record", type=Path, default=ROOT / "bench/records/article-augmented.json")
    asked = parser.parse_args(arguments)
    if not asked.examples.is_dir():
        subprocess.run([sys.executable, str(ROOT / "scripts/fetch_examples.py"), str(asked.examples)], check=True)
    data = _data(asked.examples / "data", asked.folder.resolve() / "data", asked.rows)
    spec = {
        "model": str((asked.examples / "model").resolve()),
        "data": data,
        "recipe": Recipe.model_validate(merged(ARTICLE, SHORT)),
        "threads": 1,
        "wordnet": str(asked.wordnet),
    }
    run = engine.run(asked.folder.resolve() / "run", spec)
    record = _record(run, data)
    asked.record.parent.mkdir(exist_ok=True)
    asked.record.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(record["notes"]), json.dumps(record["rows"], indent=1), sep="\n", flush=True)


def _data(source: Path, place: Path, rows: int) -> Data:
    """Write the first rows of each split; return where they lie."""
    place.mkdir(parents=True, exist_ok=True)
    for name, share in SHARES.items():
        lines = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (place / f"{name}.jsonl").write_text("".join(lines[: round(rows * share)]), encoding="utf-8")
    return Data(format="jsonl", splits={name: (str(place / f"{name}.jsonl"),) for name in SHARES})


def _record(run: engine.Run, data: Data) -> dict[str, Any]:
    report = run.report
    files = {str(name): Path(path) for name, (path,) in data.splits.items()}
    distill = report.recipe.distill
    return {
        "command": "python -m bench augmented",
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "revision": json.loads((run.folder / "done.json").read_text("utf-8"))["revision"],
        "changed_in_article": SHORT,
        "augment": distill.augment.model_dump(mode="json") if distill and distill.augment else None,
        "rows_of_data": {name: sum(1 for _ in path.open(encoding="utf-8")) for name, path in files.items()},
        "sha256": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": report.environment,
        "seconds": round(run.seconds),
        "notes": [note for row in report.rows for note in row.notes if note.startswith(("Augmentation: ", "Recovery"))],
        "rows": [_figures(row) for row in report.rows],
    }


def _version(package: str) -> str:
    return subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True, check=True).stdout


def _figures(row: Row) -> dict[str, Any]:
    score = row.score if isinstance(row.score, Score) else None
    return {
        "stage": row.stage,
        "parameters": row.parameters.total,
        "bytes": row.size.bytes,
        "score": score.value if score else None,
        "standard_error": score.standard_error if score else None,
        "rows": score.rows if score else None,
    }
