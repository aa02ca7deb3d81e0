"""`python -m bench vision --data FOLDER`: image classifiers through whole jobs, beside what others make of them.

It resumes if stopped, and keeps a record of each finished run. No images of ImageNet can be had here: nothing is said of them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import cast

import numpy as np

from bench.vision import cifar_resnet, compare, lite0, others, records, shapes
from bench.vision.records import Answered, Record
from bench.vision.rows import KINDS, Cell, Network
from compression.system.environment import environment

ROOT = Path(__file__).parent.parent.parent
OTHERS = ("ort", "nncf", "torch-pruning")
SHARES = {56: 1 / 2.1, 20: 0.6}
"""Of a network's multiply-adds, what torch-pruning leaves: as much as ours."""


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench vision", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared/data/vision", help="CIFAR-10 and the ResNets' weights"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-vision", help="where runs are kept")
    parser.add_argument("--records", type=Path, default=records.ROOT, help="where finished runs' records lie and are put")
    parser.add_argument("--rows", nargs="*", default=list(KINDS), choices=list(KINDS), help="rows to run and print")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--others", nargs="*", default=list(OTHERS), choices=OTHERS)
    parser.add_argument("--shapes", nargs="*", default=list(shapes.CUTS), choices=list(shapes.CUTS))
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    parser.add_argument("--table-only", action="store_true", help="print what is there; run nothing")
    asked = parser.parse_args(arguments)
    place: Path = asked.folder.resolve()
    networks = {KINDS[name].network.name: KINDS[name].network for name in asked.rows}
    given = {name: _prepared(network, place, asked) for name, network in networks.items()}
    kept: Path = asked.records.resolve()
    cells = [
        Cell(name, seed, *given[KINDS[name].network.name], place / f"runs/{name}-{seed}", kept)
        for at, seed in enumerate(asked.seeds)
        for name in asked.rows
        if at < KINDS[name].seeds
    ]
    for cell in [] if asked.table_only else cells:
        started = time.monotonic()
        record = cell.record(threads=asked.threads)
        assert record is not None
        print(
            f"{cell.name} seed {cell.seed}: {record.seconds / 60:.1f} min ({time.monotonic() - started:.0f} s now)", flush=True
        )
    _table(cells, asked)
    if not asked.table_only:
        _times(cells, asked, place)


def _prepared(network: Network, place: Path, asked: argparse.Namespace) -> tuple[Path, Path]:
    """Return the folders of a network and of its data; write what is missing, unless only the table is asked for."""
    model = place / "models" / network.name
    data = place / ("cifar" if network.depth else f"data/{network.name}")
    if asked.table_only:
        return model, data
    if not (model / "config.json").is_file():
        if network.depth:
            cifar_resnet.write_model(cifar_resnet.trained(network.depth, asked.data), model)
        else:
            lite0.write_model(model, place / f"environment-{network.name}")
    if not (data / "test.npz").is_file():
        if network.depth:
            cifar_resnet.write_data(asked.data, data)
        else:
            lite0.write_data(asked.data, model, data, asked.threads)
    return model, data


def _table(cells: list[Cell], asked: argparse.Namespace) -> None:
    print(f"\n{json.dumps(environment())}\n")
    print(
        "| network | model | parameters | multiply-adds | bytes | test, mean of seeds | against the original, points | 95 % |"
    )
    print("|" + " --- |" * 8)
    verdicts: list[str] = []
    for name in asked.rows:
        found = [record for cell in cells if cell.name == name and (record := cell.record(run=False)) is not None]
        if not found:
            print(f"not there: {name}")
            continue
        for stage in found[0].stages:
            _line(f"{name} ({KINDS[name].about})", stage, found[0], [record.stages[stage] for record in found])
        if KINDS[name].network.depth is None:
            verdicts += [f"{name}: {lite0.verdict(record)}" for record in found]
            continue
        for kind in asked.others:
            record = _other(kind, found[0], next(cell for cell in cells if cell.name == name), asked)
            if record is not None:
                _line(name, kind, found[0], list(record.stages.values()))
    print("", *verdicts, sep="\n", flush=True)


def _line(network: str, stage: str, first: Record, found: list[Answered]) -> None:
    """Print one row. first: where the original's answers are; found: one model per seed."""
    before = first.stages["baseline"]
    gap = compare.against(before.answers, [one.answers for one in found], first.wanted)
    costs = []
    for key in ("parameters", "multiply_adds", "bytes"):
        values = [getattr(one, key) for one in found]
        mean = None if None in values else float(np.mean(values))
        costs.append("as the original" if mean is None else f"{mean / 1e6:.3f} M ({mean / getattr(before, key) - 1:+.1%})")
    cells = [
        network,
        stage,
        *costs,
        f"{gap.score:.2f} ({len(found)})",
        f"{gap.points:+.2f}",
        f"[{gap.low:+.2f}, {gap.high:+.2f}]",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def _other(kind: str, ours: Record, cell: Cell, asked: argparse.Namespace) -> Record | None:
    """Return what another makes of the same ResNet, from its record or by a run."""
    depth, data = cell.kind.network.depth, cell.data
    assert depth is not None
    path = asked.records.resolve() / f"resnet{depth}-{kind}.json"
    found = records.find(path, cell.key, None)
    original = cell.artifact("baseline")
    if found is not None or asked.table_only or original is None:
        return found
    started, place = time.monotonic(), asked.folder.resolve() / "others"
    place.mkdir(exist_ok=True)
    images, _ = compare.rows_of(data / "test.npz", cifar_resnet.CLASSES)
    stages: dict[str, Answered] = {}
    if kind == "ort":
        file = others.ort_static(original, data, place / f"resnet{depth}-ort.onnx")
        stages[kind] = _answered(file, images)
    elif kind == "nncf":
        stages[kind] = _by_nncf(depth, original, images, asked, data)
    else:
        python = others.environment_for(asked.folder.resolve() / "environment")
        for seed in asked.seeds:
            file = place / f"resnet{depth}-torch-pruning-{seed}.onnx"
            costs = others.in_own_environment(
                python, "torch_pruning_cut.py", depth, asked.data.resolve(), data, SHARES[depth], seed, file
            )
            rounded = others.ort_static(file, data, file.with_suffix(".int8.onnx"))
            before = ours.stages["baseline"].multiply_adds
            assert before is not None
            share = cast(int, costs["multiply_adds"]) / cast(int, costs["whole"])
            stages[f"{kind} {seed}"] = _answered(rounded, images).model_copy(
                update={"parameters": costs["parameters"], "multiply_adds": round(share * before)}
            )
    return records.keep(
        path,
        Record(
            key=records.digest(cell.model, data),
            wanted=ours.wanted,
            stages=stages,
            validation={},
            seconds=round(time.monotonic() - started, 1),
            environment=environment(),
        ),
    )


def _answered(file: Path, images: compare.Pixels) -> Answered:
    answers = compare.answers(file, images)
    return Answered(answers=tuple(answers), bytes=file.stat().st_size, parameters=None, multiply_adds=None)


def _by_nncf(depth: int, original: Path, images: compare.Pixels, asked: argparse.Namespace, data: Path) -> Answered:
    place = asked.folder.resolve() / "others"
    python = others.environment_for(asked.folder.resolve() / "environment")
    np.save(place / "calibration.npy", np.concatenate(others.calibration(data)))
    np.save(place / "images.npy", compare.normalized(images))
    file = place / f"resnet{depth}-nncf.xml"
    found = others.in_own_environment(python, "nncf_static.py", original, place / "calibration.npy", place / "images.npy", file)
    return Answered.model_validate({**found, "parameters": None, "multiply_adds": None})


def _times(cells: list[Cell], asked: argparse.Namespace, place: Path) -> None:
    """Print the times of all files of each network, one thread, in one process. Only runs of this machine have files."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.name, cell)
    groups: list[tuple[str, int, dict[str, Path]]] = []
    for name, cell in first.items():
        found = {stage: cell.artifact(stage) for stage in ("baseline", "quantized", "pruned", "distilled")}
        here = {stage: file for stage, file in found.items() if file is not None}
        own = place / f"others/{cell.kind.network.name}-ort.onnx"
        groups.append((name, cell.kind.network.size, here | ({"ort": own} if own.is_file() else {})))
    groups += [(name, shapes.SIZE, shapes.files(name, place, asked.threads)) for name in asked.shapes]
    print("\n| network | file | batch 1, ms | faster | batch 32, ms | faster | images a second, batch 32 |\n|" + " --- |" * 7)
    for name, size, files in groups:
        if not files:
            continue
        one, many = (compare.times(files, size, batch) for batch in (1, 32))
        base = next(iter(files))
        for file in files:
            cells_of = [name, file, f"{one[file]:.3f}", f"{one[base] / one[file]:.2f}×", f"{many[file]:.2f}"]
            cells_of += [f"{many[base] / many[file]:.2f}×", f"{32_000 / many[file]:.0f}"]
            print("| " + " | ".join(cells_of) + " |", flush=True)


if __name__ == "__main__":
    main()
