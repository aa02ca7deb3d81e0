"""The least time that a pass can take by a device's data sheet, and notes on targets that a job cannot measure. Torch-free.

A bound counts fewer operations and bytes than a pass needs, over the highest rates that the data sheet states (Williams et al.
2009, the roofline model). A device is slower, often many times.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from compression.models.architectures.shapes import allowed
from compression.planning.estimator import PlannedJob
from compression.schema.described_devices import DescribedDevice, described_device, described_devices
from compression.schema.recipe.recipe import Targets
from compression.schema.schemes import SCHEMES
from compression.schema.tasks import TASKS

WEIGHT_BYTES = {"int8": 1.0, "int4": 0.5}
"""Bytes of a weight in an artifact; in others 4."""


@dataclass(frozen=True)
class PassWork:
    """The least work of one pass over a batch of the result, at evaluate's shape; of a language model, of one further token."""

    operations: float  #: additions and multiplications
    weight_bytes: float  #: of the weights that it reads
    integers: bool  #: whether activations are rounded too, so that products may be of 8 bits


def pass_work(job: PlannedJob) -> PassWork:
    """Return the work of a pass. Counted are the products with weights, without attention's scores and what runs once a row."""
    result, evaluate, quantize = job.result, job.evaluate, job.recipe.quantize
    scheme = SCHEMES[quantize.assumed] if quantize is not None else None
    if result.multiply_adds is not None:
        weights, products = float(result.parameters.other), float(evaluate.batch * result.multiply_adds)
    else:
        shape = result.shape
        once = shape.hidden * (shape.hidden + len(job.data.labels)) + 10 * shape.layers * shape.hidden + 2 * sum(shape.each_ffn)
        weights = float(max(result.active - once, 0))
        tokens = evaluate.length if TASKS[job.data.task].sequences and not job.is_language else 1
        products = evaluate.batch * tokens * weights
    bytes_each = WEIGHT_BYTES[scheme.precision] if scheme is not None else 4.0
    return PassWork(2 * products, bytes_each * weights, scheme is not None and scheme.rounds_activations)


def least_ms(work: PassWork, device: DescribedDevice) -> float | None:
    """Return the milliseconds that a pass takes at least; None if the data sheet states neither rate.

    Products of 8 bits need the device's rate for them; others its rate in half precision, in which a runtime may compute what
    is float32. Of the weights, only what exceeds the caches must come from memory in each pass.
    """
    rate = device.int8_ops if work.integers else device.half_flops
    found = [work.operations / rate] if rate is not None else []
    if device.bandwidth is not None and device.cache_bytes is not None:
        found.append(max(work.weight_bytes - device.cache_bytes, 0) / device.bandwidth)
    return 1000 * max(found) if found else None


def target_notes(job: PlannedJob, targets: Targets, registered: Collection[str]) -> Iterator[str]:
    """Yield notes on absolute targets that are likely unintended or cannot be measured. registered: the team's devices."""
    if targets.score is not None and not 1 < targets.score <= 100 and not job.is_language:
        over = ", which no model reaches" if targets.score > 1 else ""
        yield f"targets.score is {targets.score:g} %{over}: scores are in percent, for example 74.3."
    yield from _size_notes(job, targets)
    asked = targets.latency_ms
    if asked is None or asked.elsewhere is None:
        return
    name, known = asked.elsewhere, described_device(asked.elsewhere)
    if name in registered:
        if name not in job.evaluate.devices:
            yield f"targets.latency_ms names {name}, which measures nothing in this job: put it into evaluate.devices."
        return
    if known is None:
        yield (
            f"No device {name} is registered or described, so targets.latency_ms stays not_measured. Register it (lathe device "
            f"register {name}), or name one that is described: {', '.join(described_devices())}."
        )
        return
    prune = job.recipe.prune
    if prune is not None and prune.search is not None:  # auto's too: other widths, and other sizes, may take less
        yield (
            f"{known.title} was never measured, so targets.latency_ms stays not_measured. What its data sheet allows depends "
            "on the widths that are searched for."
        )
        return
    least = least_ms(pass_work(job), known)
    if least is None:
        yield f"{known.title} is known by its data sheet alone, which states too little for a bound; it was never measured."
        return
    yield (
        f"{known.title}: at best {_shown(least)} by its data sheet ({known.source}); never measured, so targets.latency_ms "
        "stays not_measured."
    )
    if asked.value < least:
        yield (
            f"targets.latency_ms asks for {asked.value:g} ms on {name}, less than its data sheet allows ({_shown(least)}): "
            "raise it, cut deeper, or shorten evaluate.length."
        )


def _size_notes(job: PlannedJob, targets: Targets) -> Iterator[str]:
    """Yield a note on each target of parameters that the forecast misses, where it knows how many are left."""
    prune = job.recipe.prune
    if job.recipe.auto is not None or (prune is not None and "vocabulary" in prune.axes):
        return
    left, remedy = job.result.parameters.total, "cut deeper, as by prune.target_params, or"
    if prune is not None and prune.has_target and (prune.search is None or prune.target_params is not None):
        remedy = "cut deeper or"  # without a search there is room for one target
    if prune is not None and prune.search is not None and prune.target_params is not None:
        left = min(left, allowed(prune.target_params, job.model.parameters.total))  # other widths meet it
    if targets.parameters is not None and left > targets.parameters:
        yield f"targets.parameters allows {targets.parameters:,.0f}, and the forecast leaves {left:,}: {remedy} allow more."
    share, usual = 1 - left / job.model.parameters.total, Targets.model_fields["parameter_reduction"].default
    if share < targets.parameter_reduction != usual:  # the account's own is nobody's wish
        yield (
            f"targets.parameter_reduction asks for {targets.parameter_reduction:.1%}, and the forecast takes {share:.1%} away: "
            f"{remedy} ask for less."
        )


def _shown(ms: float) -> str:
    """Return milliseconds as text, rounded down to two figures: a bound must not grow by rounding."""
    if ms <= 0:
        return "0 ms"
    step = 10.0 ** (math.floor(math.log10(ms)) - 1)
    return f"{math.floor(ms / step + 1e-9) * step:.3g} ms"
