"""Times the layers of a plan, each size's runtimes and forms in turns of alternating order, and makes a table of them."""

import datetime as dt
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from compression.evaluation.runtimes.onnx import FILE, OnnxRunner
from compression.evaluation.runtimes.openvino import OpenVinoRunner
from compression.export.device_table.layers import drawn_inputs, write
from compression.export.device_table.plan import Layer
from compression.schema.device_table import OF_IMAGES, DeviceTable, Form, TableConditions, TableRow, TableRuntime
from compression.system.host_lock import host_lock
from compression.system.processor import processor, runtime_versions

WARM_UP = 3
SECONDS = 0.5  #: about how long the alternatives of one layer are timed together
ROUNDS = 3
FEWEST_TURNS, MOST_TURNS = 4, 70  #: of a round
AT_ONCE = 8  #: layers that are timed while nothing else may be timed on the machine
LINKS = 5
"""Layers of images are timed one by one and so many in a row. The difference is theirs, without what a runtime does to images
that enter and leave it. An odd number, so that both end with the same channels."""
LEAST_SHARE = 0.05
"""The least that a layer of images takes, as a share of the pass with it alone: below it, a difference is noise."""
Run = Callable[[], Any]
Timed = tuple[TableRuntime, Form, int]  #: and the number of links
Quartiles = tuple[float, float, float]  #: microseconds


def conditions(threads: int) -> TableConditions:
    """Return what a table that is measured here and now would hold for."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return TableConditions(processor=processor(), instructions=instructions, threads=threads, runtimes=runtime_versions())


def measured(
    plan: Sequence[Layer], threads: int, known: DeviceTable | None = None, seconds: float = SECONDS
) -> Generator[DeviceTable, None, None]:
    """Time what the table of an earlier run lacks; yield the table after every few layers. Without another condition in common
    the earlier run counts for nothing.
    """
    here = conditions(threads)
    if known is None or known.conditions != here:
        known = DeviceTable(conditions=here, measured_at=dt.datetime.now(dt.UTC), rows=())
    have = {row.layer for row in known.rows}
    missing = [one for one in plan if one.key not in have]
    yield known
    for first in range(0, len(missing), AT_ONCE):
        with host_lock() as turn:
            rows = timed(missing[first : first + AT_ONCE], here, seconds)
        found = {"rows": (*known.rows, *rows), "exclusive": known.exclusive and turn.exclusive}
        known = known.model_copy(update={**found, "measured_at": dt.datetime.now(dt.UTC)})
        yield known


def timed(layers: Sequence[Layer], here: TableConditions, seconds: float = SECONDS) -> list[TableRow]:
    """Time layers in all their runtimes and forms, in rounds, of which the fastest counts: what disturbs a layer is over when
    its turn comes again. On one thread in processor time, which other load hardly changes.
    """
    clock = time.process_time_ns if here.threads == 1 else time.perf_counter_ns
    found: list[dict[Timed, Quartiles]] = [{} for _ in layers]
    with tempfile.TemporaryDirectory(prefix="lathe-") as place:
        opened = [_opened(layer, here, Path(place) / str(number)) for number, layer in enumerate(layers)]
        turns = [_turns(list(runs.values()), seconds) for runs in opened]
        for _ in range(ROUNDS):
            for runs, count, best in zip(opened, turns, found, strict=True):
                for key, times in _round(runs, count, clock).items():
                    best[key] = min(best.get(key, times), times, key=itemgetter(1))
    return [_row(layer, key, best) for layer, best in zip(layers, found, strict=True) for key in best if key[2] == 1]


def _turns(runs: Sequence[Run], seconds: float) -> int:
    began = time.perf_counter()
    for run in [*runs] * WARM_UP:
        run()
    turns = int(seconds / ROUNDS * WARM_UP / (time.perf_counter() - began))
    return min(max(turns, FEWEST_TURNS), MOST_TURNS)


def _round(runs: Mapping[Timed, Run], turns: int, clock: Callable[[], int]) -> dict[Timed, Quartiles]:
    taken: dict[Timed, list[float]] = {key: [] for key in runs}
    for turn in range(turns):
        for key in runs if turn % 2 else reversed([*runs]):
            start = clock()
            runs[key]()
            taken[key].append((clock() - start) / 1e3)
    quartiles = ((key, statistics.quantiles(times, n=4)) for key, times in taken.items())
    return {key: (low, median, high) for key, (low, median, high) in quartiles}


def _opened(layer: Layer, here: TableConditions, place: Path) -> dict[Timed, Run]:
    feeds = drawn_inputs(layer.operation, layer.inputs, layer.places, layer.batch)
    of_images = layer.operation in OF_IMAGES
    side = round(layer.places**0.5) if of_images else 0
    runs: dict[Timed, Run] = {}
    for form, links in ((form, links) for form in layer.forms("onnxruntime") for links in ((1, LINKS) if of_images else (1,))):
        folder = place / f"{form}-{links}"
        folder.mkdir(parents=True)
        write(layer.operation, form, layer.inputs, layer.outputs, folder, side=side, links=links)
        runs["onnxruntime", form, links] = onnx_run(OnnxRunner(folder / FILE, threads=here.threads), feeds)
        if "openvino" in here.runtimes and form in layer.forms("openvino"):
            runs["openvino", form, links] = openvino_run(OpenVinoRunner(folder / FILE, threads=here.threads), feeds)
    return runs


def onnx_run(runner: OnnxRunner, feeds: dict[str, Any]) -> Run:
    """Return a pass of a session over these inputs; it returns the outputs."""
    given = {name: feeds[name] for name in runner.inputs}
    return lambda: runner.session.run(None, given)


def openvino_run(runner: OpenVinoRunner, feeds: dict[str, Any]) -> Run:
    """Return a pass of a compiled model over these inputs; it returns the outputs."""
    given = {name: feeds[name] for name in runner.inputs}
    return lambda: list(runner.compiled(given).values())


def _row(layer: Layer, key: Timed, found: Mapping[Timed, Quartiles]) -> TableRow:
    runtime, form, _ = key
    low, median, high = found[key]
    chain = found.get((runtime, form, LINKS))
    own = median if chain is None else max((chain[1] - median) / (LINKS - 1), LEAST_SHARE * median)
    return TableRow(
        runtime=runtime,
        form=form,
        operation=layer.operation,
        inputs=layer.inputs,
        outputs=layer.outputs,
        places=layer.places,
        batch=layer.batch,
        microseconds=round(max(own, 0.001), 3),
        spread=round((high - low) / max(median, 0.001), 3),
    )
