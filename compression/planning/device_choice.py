"""What a device table decides before any training: the scheme that is fastest, and the multiple that widths are rounded to."""

import statistics

from compression.planning.device_times import ShapeTimes
from compression.planning.product_times import grains_of
from compression.schema.device_table import FORMS, GRAINS, DeviceTable, TableRuntime
from compression.schema.recipe.prune import USUAL_MULTIPLE
from compression.schema.recipe.quantize import USUAL_SCHEME
from compression.schema.report.measurements import Shape

RUNTIME_OF: dict[str, TableRuntime] = {"onnx": "onnxruntime", "openvino-int8": "openvino"}
"""Formats whose integers are those of training, by the runtime that opens them. ONNX files ship always."""
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
CHOICES = ("dynamic-int8", "static-int8")
WIDEST = 512
"""The width that the steps are timed below."""
UNTOLD = f"prune.multiple auto: {USUAL_MULTIPLE} was taken, for no device table tells what odd widths cost"
STEP = 1.1
"""A narrower layer that takes this much longer than the one of WIDEST shows a step: spreads of calm machines are smaller."""


def fastest_scheme(times: ShapeTimes | None, shape: Shape, formats: tuple[str, ...]) -> tuple[str, str]:
    """Return the scheme with the least predicted time in a runtime of the job's formats, and the reason. Without predictions:
    the usual scheme.
    """
    runtimes = dict.fromkeys(RUNTIME_OF[kind] for kind in ("onnx", *formats) if kind in RUNTIME_OF)
    asked = [(scheme, runtime) for scheme in CHOICES for runtime in runtimes]
    found = [(times.milliseconds(shape, *each), *each) for each in asked] if times is not None else []
    known = sorted((ms, scheme, runtime) for ms, scheme, runtime in found if ms is not None)
    if not known:
        return USUAL_SCHEME, f"quantize.scheme auto: {USUAL_SCHEME} was taken, for no device table predicts this model"
    chosen = known[0][1]
    told = ", ".join(f"{scheme} {ms:.2f} ms in {NAMES[runtime]}" for ms, scheme, runtime in known)
    return chosen, f"quantize.scheme auto: {chosen} was taken. The device table predicts {told}. Scores were not compared"


def smallest_multiple(times: ShapeTimes | None, scheme: str | None) -> tuple[int, str]:
    """Return the smallest multiple from which on no width shows a step in ONNX Runtime, and the reason: of linear layers, or of
    a network's convolutions. scheme: of the layers; one that the table has no times of is timed in float32. Without times: the
    usual multiple.
    """
    if times is not None and times.network is not None:
        return _smallest_of_channels(times.table, scheme)
    return _smallest_of_linear(times.table if times is not None else None, scheme)


def _smallest_of_channels(table: DeviceTable, scheme: str | None) -> tuple[int, str]:
    """Compare odd numbers of channels with neighbours that are multiples of 4, by what their multiplications take. Channels go
    in steps of 8 at most, so multiples of 16 are no choice.
    """
    form = "float32" if scheme not in FORMS or scheme == "float32" else "static-int8"
    of_grain: dict[int, dict[tuple[int, int], float]] = {grain: {} for grain in GRAINS}
    for row in table.rows:
        asked = (row.runtime, row.form, row.operation, row.batch) == ("onnxruntime", form, "convolution", 1)
        if asked and row.inputs == row.outputs:
            grain = grains_of(row.inputs, row.outputs)[0]
            of_grain[grain][row.inputs, row.places] = row.microseconds / row.inputs**2
    even, odd = of_grain[GRAINS[1]], of_grain[GRAINS[2]]
    shares = [time / even[width - 2, places] for (width, places), time in odd.items() if (width - 2, places) in even]
    if not shares:
        return USUAL_MULTIPLE, UNTOLD
    share = statistics.median(shares)
    chosen = GRAINS[1] if share >= STEP else GRAINS[2]
    why = f"time of a multiplication in convolutions of odd numbers of channels / of multiples of 4, in {form}: {share:.2f}"
    return chosen, f"prune.multiple auto: {chosen} was taken ({why})"


def _smallest_of_linear(table: DeviceTable | None, scheme: str | None) -> tuple[int, str]:
    form = scheme if scheme in FORMS else "float32"
    rows = (
        [row for row in table.rows if (row.runtime, row.form, row.operation) == ("onnxruntime", form, "linear")]
        if table
        else []
    )
    square = [row for row in rows if row.inputs == row.outputs <= WIDEST and row.batch == 1]
    whole = {row.places: row.microseconds for row in square if row.inputs == WIDEST}
    shares = {
        row.inputs & -row.inputs: row.microseconds / whole[row.places]
        for row in square
        if row.places in whole and WIDEST - 64 <= row.inputs < WIDEST
    }
    if USUAL_MULTIPLE not in shares:
        return USUAL_MULTIPLE, UNTOLD
    chosen = USUAL_MULTIPLE
    for multiple in sorted(shares, reverse=True):
        if shares[multiple] >= STEP:
            break
        chosen = multiple
    told = ", ".join(f"{multiple}: {share:.2f}" for multiple, share in sorted(shares.items()))
    why = f"time of a layer just below {WIDEST} channels / at {WIDEST}, in {form} by the device table, by multiple: {told}"
    return chosen, f"prune.multiple auto: {chosen} was taken ({why})"
