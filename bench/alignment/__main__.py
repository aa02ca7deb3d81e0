"""`python -m bench alignment`: what odd widths, unaligned weights and unjoined operators cost here.

  widths   a linear layer, a convolution and an encoder of one layer, at odd widths and at those rounded up to multiples of
           8, 16, 32 and 64: times against each other, in turns in one process; in ONNX Runtime and in OpenVINO
  storage  the same weights in external data at pages, at 64 bytes and at 4
  joining  an encoder of one layer in ONNX Runtime with and without its graph optimizations, and how many operators each runs

What has a record of this machine is not run again (`--again`), so the command may be stopped at any time; `--table-only` prints
the records. Records: bench/alignment/records.
"""

import argparse
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from bench.alignment import storage, timing
from bench.alignment.layers import LAYERS, READS, encoder, opened
from compression.evaluation.runtimes.onnx import FILE
from compression.evaluation.runtimes.openvino import imported
from compression.schema.device_table import FORMS, Form
from compression.system.processor import processor

RECORDS = Path(__file__).parent / "records"
MULTIPLES = (8, 16, 32, 64)
HEADS = {
    "widths": ("layer, runtime, form, width", "time", *(f"against multiples of {each}" for each in MULTIPLES)),
    "storage": ("weights, and where they begin", "to open", "a pass", "a pass against pages"),
    "joining": ("an encoder of one layer", "operators of the file", "executed", "time", "time without joining against it"),
}
"""Parts, with the heads of their tables."""
Record = dict[str, Any]


def widths(layer: str, form: Form, runtime: str, width: int, threads: int, turns: int) -> Record:
    """Time an odd width beside its roundings. `against`: by multiple, quartiles of the odd width's time / the rounded one's."""
    write = LAYERS[layer][0]
    rounded = {multiple: -(-width // multiple) * multiple for multiple in MULTIPLES}
    with tempfile.TemporaryDirectory() as name:
        runs = {}
        for each in sorted({width, *rounded.values()}):
            folder = Path(name) / str(each)
            folder.mkdir()
            torch.manual_seed(0)
            runs[each] = opened(runtime, folder, write(each, form, folder), threads=threads)
        taken = timing.times(runs, turns)
    return {
        "ms": {str(each): round(statistics.median(found), 4) for each, found in taken.items()},
        "against": {str(multiple): timing.share(taken[width], taken[each]) for multiple, each in rounded.items()},
    }


def joining(form: Form, threads: int, turns: int) -> Record:
    """Time an encoder with and without joined operators, and count the operators of both files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        feeds = encoder(form, folder)
        runs = {joins: opened("onnx", folder, feeds, threads=threads, joins=joins) for joins in (True, False)}
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(folder / "joined.onnx"), 3
        onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        counts = [Counter(node.op_type for node in onnx.load(folder / each).graph.node) for each in (FILE, "joined.onnx")]
        taken = timing.times(runs, turns)
    gain = timing.share(taken[False], taken[True])
    return {"before": counts[0], "after": counts[1], "ms": round(statistics.median(taken[True]), 4), "gain": gain}


def work(asked: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], Record]]]:
    """Yield the part and the name of each record, and what makes it."""
    how = asked.threads, asked.turns
    for layer in asked.layers if "widths" in asked.parts else ():
        _, usual, forms = LAYERS[layer]
        for runtime, form, width in product(READS, forms, asked.widths or usual):
            if form in READS[runtime]:
                yield "widths", f"{layer}-{runtime}-{form}-{width}", partial(widths, layer, form, runtime, width, *how)
    if "storage" in asked.parts:
        yield "storage", "storage", partial(storage.compare, asked.turns)
    for form in FORMS if "joining" in asked.parts else ():
        yield "joining", f"joining-{form}", partial(joining, form, *how)


def machine(threads: int) -> Record:
    """Return what times depend on beside the work."""
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": imported().__version__.partition("-")[0]}
    return {"processor": processor(), "threads": threads, **versions}


def kept(path: Path, here: Record) -> Record | None:
    """Read a record; None if there is none of this machine."""
    found: Record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found if found.get("machine") == here else None


def keep(path: Path, record: Record) -> Record:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record) + "\n", "utf-8")
    part.replace(path)
    return record


def lines(part: str, name: str, record: Record) -> Iterator[str]:
    """Yield a record's rows in Markdown."""
    if part == "storage":
        for packs, places in record["storage"].items():
            for place, one in places.items():
                cells = f"{one['open_ms']:.2f} ms", f"{one['ms']:.3f} ms", _spread(one["against_page"])
                yield f"| {packs}, {place} | {' | '.join(cells)} |"
    elif part == "joining":
        before, after = (sum(record[side].values()) for side in ("before", "after"))
        yield f"| {name} | {before} | {after} | {record['ms']:.2f} ms | {_spread(record['gain'])} |"
    else:
        odd = name.rpartition("-")[2]
        found = [f"{record['ms'][odd]:.3f} ms", *map(_spread, record["against"].values())]
        yield f"| {name} | {' | '.join(found)} |"


def _spread(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main(arguments: list[str] | None = None) -> None:
    """Run what has no record yet, then print all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench alignment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--widths", nargs="+", type=int, help="odd widths in place of each layer's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--again", action="store_true", help="run what has a record too")
    parser.add_argument("--table-only", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    here = machine(asked.threads)
    print(here)
    shown = ""
    for part, name, run in work(asked):
        path = asked.records / f"{name}.json"
        record = None if asked.again else kept(path, here)
        if record is None and not asked.table_only:
            record = keep(path, {"machine": here, "turns": asked.turns, **run()})
        if record is None:
            continue
        if part != shown:
            shown = part
            print(f"\n| {' | '.join(HEADS[part])} |\n|{' --- |' * len(HEADS[part])}")
        print("\n".join(lines(part, name, record)), flush=True)


if __name__ == "__main__":
    main()
