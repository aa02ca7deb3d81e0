"""Predicted milliseconds against measured ones, over shapes of an encoder and of a network of images.

The device table is measured first; it may take several calls. A model's shapes are then timed in one call, each as a job times
what it looks for: exported with simulated integers and drawn weights, in turns with the original, in a fresh process. Shapes
are drawn with a stored seed, before anything is measured.
"""

import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.account.job import digest_of
from bench.examples import model_folder
from bench.targets.figures import Offs, offs
from bench.targets.steps import Clock, Facts, Place, Step, head, line, records_of, told
from bench.vision import cifar_resnet
from compression.engine.dataset_run import DatasetRun
from compression.engine.shipping import measure_latency
from compression.engine.stages.apply_cut import remade
from compression.engine.stages.insert_quantization import insert_quantization
from compression.export.device_table.command import read_table
from compression.export.device_table.measuring import conditions, measured
from compression.export.device_table.plan import whole_plan
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.models.architectures.network_shapes import at_widths, step_of
from compression.models.architectures.shapes import shape_at
from compression.planning.device_times import ShapeTimes
from compression.quantization.fake_quantize import simulation_of
from compression.schema.device_table import DeviceTable
from compression.schema.errors import UnsupportedShape
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Latency, Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.stages import BASELINE, PRUNED
from compression.system import durable_files

TABLE, MODELS = "device-table", ("encoder", "network")
SHAPES, SEED, THREADS, DEPTH = 20, 31, 1, 20
MEDIAN, WORST = 0.05, 0.10
"""How far a prediction may be from the measured time, as a share of it."""
DEEPEST = 0.8  #: the most that an axis loses
DRAWS = 1000
STEADY, TRIES = 1.1, 3
"""By how much the original may take longer than at the other shapes, and how often a shape is timed again."""
ROWS = 512


def steps(place: Place) -> Iterator[Step]:
    """Yield the device table, then each model's shapes."""
    here = conditions(THREADS).model_dump(mode="json")
    yield Step(TABLE, {"conditions": here}, partial(_table, place))
    with tempfile.TemporaryDirectory(prefix="lathe-bench-targets-") as name:
        for model in MODELS:
            spec = spec_of(model, place, Path(name) / model)
            about = {"model": digest_of(Path(spec.model)), "shapes": SHAPES, "seed": SEED, "conditions": here}
            about |= {"recipe": spec.recipe.model_dump(mode="json")}
            yield Step(model, about, partial(times, spec, Path(name) / model, place))


def _table(place: Place, clock: Clock) -> Facts:
    """Measure the device table; what one call has timed, the next one does not time again."""
    file, known = place.folder / f"{TABLE}.json", None
    for known in measured(whole_plan(), THREADS, read_table(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        durable_files.write_text(file, known.model_dump_json())
        clock.left()
    assert known is not None, "it yields once at least"
    return {"table": known.model_dump(mode="json")}


def kept_table(records: Path) -> DeviceTable:
    """Return this machine's device table. records: of this part. Raises SystemExit if there is none."""
    found = next((record for name, record in records_of(records, TABLE)), None)
    table = DeviceTable.model_validate(found["table"]) if found is not None else None
    if table is None or table.conditions != conditions(THREADS):
        raise SystemExit("there is no device table of this machine: run python -m bench targets milliseconds first")
    return table


def spec_of(name: str, place: Place, folder: Path) -> Spec:
    """Return the job whose model is timed: MiniLM on the demo's sentences, or a ResNet of CIFAR-10, written into `folder`."""
    if name == "encoder":
        model, task, kind, ending = model_folder("minilm", place.examples), "text-classification", "jsonl", "jsonl"
        data, scheme, axes = place.examples / "data", "dynamic-int8", ["hidden", "heads", "ffn", "layers"]
    else:
        source = place.data / "vision"
        model, task, kind, ending = folder / "model", "image-classification", "npz", "npz"
        cifar_resnet.write_model(cifar_resnet.trained(DEPTH, source), model)
        data, scheme, axes = cifar_resnet.write_data(source, folder / "data", ROWS), "static-int8", ["channels", "hidden"]
    files = {split: [str((data / f"{split}.{ending}").resolve())] for split in ("train", "validation", "test")}
    recipe = {"quantize": {"scheme": scheme}, "prune": {"axes": axes}, "distill": None}
    asked = {"model": str(model), "task": task, "data": {"format": kind, "splits": files}, "recipe": recipe}
    return Spec.model_validate({**asked, "evaluate": {"threads": THREADS}, "output": str(folder / "out")})


def drawn_shapes(
    kind: ArchitectureSpec, whole: Shape, prune: Prune, network: NetworkFacts | None, count: int, seed: int = SEED
) -> list[Shape]:
    """Draw different shapes: of a network each group's width, else each axis's. Raises SystemExit if there are too few."""
    draw, found = random.Random(seed), list[Shape]()
    for _ in range(DRAWS):
        try:
            shape = _drawn(draw, kind, whole, prune, network)
        except UnsupportedShape:
            continue
        found += [shape] * (shape not in found)
        if len(found) == count:
            return found
    raise SystemExit(f"the model has no {count} different shapes")


def _drawn(draw: random.Random, kind: ArchitectureSpec, whole: Shape, prune: Prune, network: NetworkFacts | None) -> Shape:
    if network is not None:
        widths = {
            group.key: max(round(group.units * draw.uniform(1 - DEEPEST, 1) / step) * step, step)
            for group in network.groups
            if (step := max(step_of(group, prune.rounding), 2))
        }
        return at_widths(whole, {**network.widths, **widths}, network)
    hidden = draw.uniform(0, DEEPEST)
    ratios: dict[Axis, float] = {**dict.fromkeys(prune.ratios, 0.0), "hidden": hidden, "heads": hidden * draw.choice((0.5, 1))}
    ratios |= {"ffn": draw.uniform(0, DEEPEST), "layers": draw.uniform(0, DEEPEST)}
    return shape_at(kind, whole, prune, ratios)


def times(spec: Spec, base: Path, place: Place, clock: Clock, count: int = SHAPES) -> Facts:
    """Time a model's shapes, all in this call; return each beside its prediction. base: a folder for the job's files."""
    table = kept_table(place.records)
    run = DatasetRun.open(spec, base, spec.asked[0])
    model, settings, length = run.state.model, run.settings, run.data.evaluate.length
    kind, family = ARCHITECTURE_SPECS[model.config.model_type], adapter_of(model)
    network, whole, prune = family.network(model.config), family.shape_of(model.config), run.state.recipe.prune
    assert prune is not None, "the spec has one"
    predicted = ShapeTimes(table, kind, network, length, run.data.evaluate.batch)
    original = base / "original"
    original.mkdir(parents=True)
    settings.write(model, original, run.request(model, BASELINE, run.kind, length))
    insert_quantization(run.state)
    simulation = simulation_of(model)
    assert simulation is not None, "the recipe has a scheme"

    def timed(shape: Shape) -> Facts:
        clock.left()
        small = remade(run.state, model, partial(family.drawn, shape=shape))
        asked = replace(run.request(small, BASELINE, run.kind, length), stage=PRUNED, baseline=original)
        took = measure_latency(small, asked, settings)
        if not isinstance(took, Latency):
            raise SystemExit(f"{shape.short}: {took.not_measured}")
        own = {"milliseconds": took.median_ms, "spread": took.spread_ms, "original": took.baseline_median_ms}
        guess = predicted.milliseconds(shape, simulation.scheme)
        return {"shape": shape.model_dump(mode="json"), "predicted": guess, **own}

    found = steady(drawn_shapes(kind, whole, prune, network, count), timed)
    return {**found, "original_predicted": predicted.milliseconds(whole, None), "scheme": simulation.scheme}


def steady(shapes: Sequence[Shape], timed: Callable[[Shape], Facts]) -> Facts:
    """Time shapes; those in whose turns the original took longer than usual were disturbed, and are timed again."""
    found, again = [timed(shape) for shape in shapes], 0
    for _ in range(TRIES):
        usual = statistics.median(one["original"] for one in found)
        disturbed = [at for at, one in enumerate(found) if one["original"] > STEADY * usual]
        again += len(disturbed)
        for at in disturbed:
            found[at] = timed(shapes[at])
    return {"shapes": found, "timed_again": again}


def off_of(record: Mapping[str, Any]) -> Offs:
    """Return how far a record's predictions are from the times."""
    return offs([one["predicted"] / one["milliseconds"] for one in record["shapes"]])


def table(records: Path) -> str:
    """Return the records as a line a model, and a line a shape."""
    found = [(name, record) for name, record in records_of(records) if name in MODELS]
    columns = ("model", "shapes", "off by, median", "worst", "within 5 % and 10 %", "original, float32", "others took")
    lines = head(*columns)
    for name, record in found:
        off, original = off_of(record), statistics.median(one["original"] for one in record["shapes"])
        within, guess = told(holds=off.median <= MEDIAN and off.worst <= WORST), record["original_predicted"]
        whole = f"{guess:.2f} / {original:.2f} ms ({guess / original:.3f})"
        shares = (f"{off.median:.1%}", f"{off.worst:.1%}", within, whole, f"{record['others']:.0%}")
        lines.append(line(name, len(record["shapes"]), *shares))
    lines += ["", *head("model", "shape", "predicted", "measured", "predicted / measured")]
    for name, record in found:
        for one in record["shapes"]:
            guess, took = one["predicted"], one["milliseconds"]
            shape = Shape.model_validate(one["shape"]).short
            lines.append(line(name, shape, f"{guess:.3f} ms", f"{took:.3f} ms", f"{guess / took:.3f}"))
    return "\n".join(lines)
