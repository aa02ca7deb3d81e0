"""Calibration on train rows: distribution, range and channel maxima of each linear layer's input at real tokens, and of a
network's values.

It draws no number from torch's global generator, so it does not change any later result.
"""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from compression.modalities.base import Examples
from compression.modalities.sampling import micro_batch_size
from compression.quantization.fake_quantize import ranged_inputs, set_input_ranges
from compression.quantization.observers import Spread, range_of
from compression.schema.recipe.quantize import Quantize

BATCH = 32
Calibrate = Callable[[nn.Module, Quantize], None]  #: sets every range of the settings' scheme on a model, from rows of train


def no_rows(_model: nn.Module, _settings: Quantize) -> None:
    """Refuse to calibrate. Raises TypeError."""
    raise TypeError("there are no rows of train to calibrate ranges on")


@torch.inference_mode()
def collect_inputs(
    model: nn.Module, layers: dict[str, nn.Module], rows: Examples, observe: Callable[[str, Tensor], None], parts: int = 1
) -> None:
    """Run all rows through a model and call `observe(name, (tokens, features))` with the inputs of `layers`."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    real = torch.empty(0)

    def on_input(name: str, given: Tensor) -> None:
        # A head may read one vector per row, without padding. DeepSeek's low-rank inputs have one more dimension. Where nothing
        # is padded, values need not be tokens.
        padded = given.ndim > 2 and not real.all()
        observe(name, given.reshape(*real.shape, -1)[real] if padded else given.reshape(-1, given.shape[-1]))

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(lambda _, inputs, name=name: on_input(name, inputs[0])))
        for batch in rows.by_length(micro_batch_size(BATCH, parts)):
            here = batch.to(device)
            real = here.mask.bool()
            rows.task.run(model, here)
    model.train(training)


def calibrate(model: nn.Module, rows: Examples, settings: Quantize, parts: int = 1) -> None:
    """Set every range that the recipe's scheme has with its observer, on the model in its current state."""
    layers = ranged_inputs(model, settings.scheme)
    if not layers:
        return
    spreads = {name: Spread() for name in layers}
    collect_inputs(model, layers, rows, lambda name, x: spreads[name].add(x), parts)
    found = {
        name: range_of(spread, settings.observer, settings.percentile, around_zero=settings.symmetric)
        for name, spread in spreads.items()
    }
    set_input_ranges(model, found)


def channel_peaks(model: nn.Module, layers: dict[str, nn.Module], rows: Examples, parts: int = 1) -> dict[str, Tensor]:
    """Return the largest absolute value of each input channel of `layers`. -> (in,) each, on the CPU."""
    peaks: dict[str, Tensor] = {}

    def observe(name: str, x: Tensor) -> None:
        largest = x.abs().amax(dim=0).cpu()
        peaks[name] = torch.maximum(peaks[name], largest) if name in peaks else largest

    collect_inputs(model, layers, rows, observe, parts)
    return peaks


def sample_tokens(
    model: nn.Module, layers: dict[str, nn.Module], rows: Examples, count: int, parts: int = 1
) -> dict[str, Tensor]:
    """Sample the inputs of `layers` at `count` tokens, or at all if fewer. -> (tokens, in) each.

    Each token gets a random key, and the lowest keys stay (Efraimidis & Spirakis 2006): a fixed stride would take only the
    first tokens of rows of its length.
    """
    samples: dict[str, tuple[Tensor, Tensor]] = {}
    draws = {name: torch.Generator().manual_seed(0) for name in layers}

    def observe(name: str, x: Tensor) -> None:
        lots = torch.rand(len(x), generator=draws[name])
        lots, kept = _lowest(lots, x, count)
        if name in samples:
            lots, kept = _lowest(torch.cat([samples[name][0], lots]), torch.cat([samples[name][1], kept]), count)
        samples[name] = lots, kept

    collect_inputs(model, layers, rows, observe, parts)
    return {name: kept for name, (_, kept) in samples.items()}


def _lowest(lots: Tensor, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    stay = lots.argsort()[:count]
    return lots[stay], x[stay.to(x.device)]
