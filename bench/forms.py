"""`python -m bench forms`: a recipe's shape in ONNX Runtime and in OpenVINO, each timed as a job times it.

The original in FP32 in ONNX Runtime is what each form is timed in turns with, in a fresh process; a line has the median of
several runs. Weights are drawn at random: times do not depend on them.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from bench.glue import compare, records
from bench.glue.records import Record
from compression.engine.shipping import measure_artifact
from compression.evaluation.measure import MeasureSpec
from compression.export.exporter import exporter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, ranged_inputs, set_input_ranges
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Latency, Shape
from compression.system.environment import environment
from compression.system.progress import run_silently

ROOT = Path(__file__).parent.parent
TASK, LABELS = "text-classification", ("0", "1")
FORMS = ("onnx", "openvino-int8")


def main(arguments: list[str] | None = None) -> None:
    """Write the files, time them, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench forms", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model", help="folder of the encoder")
    parser.add_argument("--recipe", default="standard", help="whose shape is timed, from the records of SST-2's seed 0")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one run of a form and the original together")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 128])
    asked = parser.parse_args(arguments)
    kept = [records.path_of(records.ROOT / "sst2-0", name) for name in ("original", asked.recipe)]
    first, last = (Record.model_validate_json(path.read_text("utf-8")).shipped.shape for path in kept)
    print(f"{last.short} against {first.short}; {environment().get('processor', '')}, batch 1, one thread\n")
    print(f"| form | length | times as fast, median of {asked.runs} | each run | milliseconds | runtime |")
    print("| --- | ---: | ---: | --- | ---: | --- |")
    with tempfile.TemporaryDirectory() as place:
        original = compare.of_shape(asked.model, first, len(LABELS), Path(place) / "original", int8=False)
        model = simulated(asked.model, last)
        for form in FORMS:
            folder = written(model, form, original, Path(place) / form)
            for length in asked.lengths:
                print(line(form, length, list(timed(form, folder, original, length, asked.runs, asked.seconds))), flush=True)


def simulated(folder: Path, shape: Shape) -> PreTrainedModel:
    """Return a model of a shape, drawn at random, in portable dynamic-int8. folder: of the encoder whose config it has else."""
    widths = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads}
    widths |= {"intermediate_size": shape.ffn, "vocab_size": shape.vocabulary, "num_labels": len(LABELS)}
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, **widths)).eval()
    insert_fake_quantization(model, simulation=Simulation(portable=True))
    return model


def written(model: PreTrainedModel, form: str, original: Path, folder: Path) -> Path:
    """Write a form of a model, with the original's tokenizer. Raises SystemExit if this machine cannot."""
    exporter = exporter_of(form)
    if (reason := exporter.hinders(model)) is not None:
        raise SystemExit(f"{form}: {reason}")
    folder.mkdir()
    for path in original.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    model.config.save_pretrained(folder)
    exporter.write(exporter.prepared(model, any_range), folder, "int8")
    return folder


def any_range(model: nn.Module, settings: Quantize) -> None:
    """Set every range of a scheme to the same: no time depends on it."""
    set_input_ranges(model, dict.fromkeys(ranged_inputs(model, settings.scheme), (-4.0, 4.0)))


def timed(form: str, folder: Path, original: Path, length: int, runs: int, seconds: float) -> Iterator[Latency]:
    """Time a form and the original in turns, each run in a fresh process. Raises SystemExit if it was not measured."""
    places = {"folder": str(folder.resolve()), "baseline": str(original.resolve())}
    evaluate = Evaluate(batch=1, length=length, threads=1)
    spec = MeasureSpec(kind=form, **places, task=TASK, labels=LABELS, evaluate=evaluate, seconds=seconds)
    for _ in range(runs):
        found = run_silently(measure_artifact(spec, last_try=True)).latency
        if not isinstance(found, Latency):
            raise SystemExit(f"{form}: {found.not_measured}")
        yield found


def line(form: str, length: int, found: list[Latency]) -> str:
    """Return a form's line of the table, in Markdown."""
    faster = [one.baseline_median_ms / one.median_ms for one in found]
    each = ", ".join(f"{one:.2f}" for one in faster)
    time = statistics.median(one.median_ms for one in found)
    return f"| {form} | {length} | **{statistics.median(faster):.2f}×** | {each} | {time:.2f} | {found[0].runtime} |"
