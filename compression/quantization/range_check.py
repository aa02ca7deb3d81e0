"""Range check: finds layers whose activations lose precision because outliers stretch the range."""

import torch
from torch import Tensor, nn

from compression.modalities.base import Examples
from compression.quantization import calibration, smoothquant
from compression.quantization.fake_quantize import rounding_places
from compression.quantization.observers import Spread, drawn, drawn_rows, levels_used, quantile
from compression.quantization.rounded_network import RoundedValue
from compression.schema.report.layer_ranges import LayerRange

PERCENT = 99
"""Percentage of |activations| that are not outliers. BERT has outliers in one to six channels of 768 (Kovaleva et al. 2021),
which is less than one per cent."""
STRETCHED = 4.0  #: a range is stretched if it is this many times as wide as PERCENT of the values need
FEWEST_LEVELS = 1 / 16  #: smallest share of effective levels. Below it, fewer than 4 of the 8 bits are left.
CODES = 256
MOST = 1 << 16
"""Elements of a batch that are counted of each layer's input. The largest is of all; what 99 % of the values need, and how many
levels they use, a few million tell as well as billions: a decoder's took longer than its training."""
NAMED = 8  #: most layers that a note names; the report lists all


def check_ranges(model: nn.Module, rows: Examples, parts: int = 1) -> tuple[LayerRange, ...]:
    """Check the input range of each simulated layer, or each rounded value of a network, in model order; empty if no layer is
    simulated.
    """
    layers = rounding_places(model)
    if not layers:
        return ()
    spreads = {name: Spread() for name in layers}
    codes = {name: torch.zeros(CODES) for name in layers}

    def observe(name: str, x: Tensor) -> None:
        some = drawn(x, MOST) if isinstance(layers[name], RoundedValue) else drawn_rows(x, MOST)
        spreads[name].add(x, some)
        whole = layers[name].activation_integers(some)
        if whole is not None:
            # int8 begins at −127 and uint8 at 0: signed values are shifted by 128.
            place = whole.flatten().long() + (CODES // 2 if whole.dtype == torch.int8 else 0)
            codes[name] += torch.bincount(place, minlength=CODES).cpu()

    calibration.collect_inputs(model, dict(layers), rows, observe, parts)
    into = {reader: pair.source for pair in smoothquant.pairs(model) for reader in pair.readers}
    return tuple(layer_range(name, spreads[name], codes[name], into.get(name)) for name in layers)


def describe_broken(found: tuple[LayerRange, ...]) -> str | None:
    """Return a note on the layers whose range outliers break, worst first; None if there are none."""
    broken = sorted((layer for layer in found if layer.broken), key=lambda layer: -layer.ratio)
    if not broken:
        return None
    names = ", ".join(f"{layer.layer} ({layer.ratio:.0f} times, {layer.levels_used:.1%})" for layer in broken[:NAMED])
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return (
        f"Outliers break the range of {len(broken)} of {len(found)} layers (largest |activation| by what {PERCENT} % keep "
        f"below, levels used): {names}{more}."
    )


def layer_range(name: str, spread: Spread, codes: Tensor, into: str | None) -> LayerRange:
    """Compute a layer's statistics. codes: (256,), how often each integer occurs; all 0 without quantized activations."""
    values, counts = spread.magnitudes()
    usual = quantile(values, counts, PERCENT / 100)
    ratio = spread.largest / usual if usual > 0 else 1.0
    levels = levels_used(codes) / CODES if codes.any() else None
    return LayerRange(
        layer=name,
        largest=spread.largest,
        percentile=usual,
        ratio=ratio,
        beyond=float(counts[values > STRETCHED * usual].sum() / counts.sum()),
        levels_used=levels,
        broken=levels is not None and levels < FEWEST_LEVELS and ratio >= STRETCHED,
        smooths_into=into,
    )
