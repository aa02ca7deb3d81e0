"""A fresh process of a profile: `python -m compression profile-part SPEC.json` opens an artifact, and measures it if asked.

Torch-free, unless the artifact is a checkpoint.
"""

import time
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from compression.evaluation.generation_latency import TOKENS
from compression.evaluation.profiling import window
from compression.evaluation.profiling.refusals import refusal_of
from compression.evaluation.runtimes.runner import open_artifact
from compression.modalities.made_inputs import MadeInputs, made_inputs, pass_over
from compression.modalities.scoring.base import Runner
from compression.modalities.text.decoding import Decoder, chosen
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.config import Config
from compression.schema.manifest import LENGTH, Interface
from compression.schema.profile import MOST_LAYERS, Energy, LayerTime, MemoryRange, ProfiledLatency, ProfileFailure
from compression.schema.report.measurements import NotMeasured
from compression.system.child_process import telling
from compression.system.sensors import Sensor, find_sensor


class PartSpec(Config):
    """Input. The folder is absolute."""

    kind: Kind
    folder: str
    interface: Interface
    sizes: dict[str, int]  #: of each axis
    threads: int
    seconds: float | None = None  #: length of the windows; None times nothing
    layer_passes: int = 0  #: passes of which each layer's mean time is taken; 0 takes none


class Measured(Config):
    """What was measured behind the first answer."""

    latency: ProfiledLatency
    decoding: ProfiledLatency | None
    rows_per_second: float
    memory: MemoryRange
    energy: Energy | NotMeasured


class Opened(Config):
    """Output: how long the first answer took, and in which runtime."""

    load_ms: float
    runtime: str
    measured: Measured | None = None
    layers: list[LayerTime] | NotMeasured | None = None


parse_output: TypeAdapter[Opened | ProfileFailure] = TypeAdapter(Opened | ProfileFailure)


def opened(spec: PartSpec, sensor: Sensor | NotMeasured | None = None) -> Opened:
    """Open the artifact, let it answer once, and measure what the spec says. sensor: None finds the machine's."""
    inputs = made_inputs(spec.interface, spec.sizes)
    started = time.perf_counter()
    runner = open_artifact(spec.kind, Path(spec.folder), threads=spec.threads)
    pass_over(runner, inputs)
    load = 1000 * (time.perf_counter() - started)
    measured = None
    if spec.seconds is not None:
        found = find_sensor() if sensor is None else sensor
        with nullcontext() if isinstance(found, NotMeasured) else closing(found):
            measured = _measured(spec, runner, inputs, spec.seconds, found)
    layers = _layers(spec, runner, inputs) if spec.layer_passes else None
    return Opened(load_ms=load, runtime=runner.name, measured=measured, layers=layers)


def _measured(
    spec: PartSpec, runner: Runner[Any], inputs: MadeInputs, seconds: float, sensor: Sensor | NotMeasured
) -> Measured:
    run, idle = partial(pass_over, runner, inputs), None
    reader = None if isinstance(sensor, NotMeasured) else sensor
    with window.sampled_memory() as range_so_far:
        window.warm_up(run, seconds)
        if reader is not None:
            idle = window.idle_power(reader, seconds)
        timed, memory = window.timed(run, seconds, reader), range_so_far()
    rate = inputs.shape[0] * len(timed.times_ms) / timed.seconds
    energy: Energy | NotMeasured
    if isinstance(sensor, NotMeasured) or idle is None or timed.power is None:
        energy = cast(NotMeasured, sensor)
    else:
        energy = window.energy_of(idle, timed.power, rate, sensor.name)
    return Measured(
        latency=window.latency_of(timed.times_ms),
        decoding=_decoding(spec, runner, inputs, seconds) if isinstance(runner, Decoder) else None,
        rows_per_second=rate,
        memory=memory,
        energy=energy,
    )


def _decoding(spec: PartSpec, decoder: Decoder, inputs: MadeInputs, seconds: float) -> ProfiledLatency | None:
    """Time further tokens behind the prompts, TOKENS or as many as there are positions for; None if there is none."""
    prompt = inputs.input_ids
    tokens = min(TOKENS, spec.interface.largest.get(LENGTH, prompt.shape[1] + TOKENS) - prompt.shape[1])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while tokens > 0 and (not times or time.perf_counter() < end):
        logits, cache = decoder.step(prompt)
        for _ in range(tokens):
            new, start = chosen(logits), time.perf_counter()
            logits, cache = decoder.step(new, cache)
            times.append(round(1000 * (time.perf_counter() - start), 6))
    return window.latency_of(times) if times else None


def _layers(spec: PartSpec, runner: Runner[Any], inputs: MadeInputs) -> list[LayerTime] | NotMeasured:
    layers = getattr(runner, "layers", None)  # of runtimes that time their graph's layers
    if layers is None:
        return NotMeasured(not_measured=f"{ARTIFACT_FORMATS[spec.kind].runs_in} does not tell the times of layers here.")
    found: list[LayerTime] = layers(inputs, spec.layer_passes)
    return found[:MOST_LAYERS]


def main(path: Path) -> int:
    """Run the spec at `path`; print an `Opened` or a `ProfileFailure`. Return the exit code."""
    tell = telling()
    spec = PartSpec.model_validate_json(path.read_bytes())
    try:
        tell(opened(spec))
    except Exception as problem:
        tell(refusal_of(problem).failure)
    return 0
