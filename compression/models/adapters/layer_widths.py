"""Encoders whose layers have feed-forward widths of their own, though a stock config states one for all layers.

In memory each layer has as many units as it keeps, and so have the graphs that are written of it. The config states the widest
layer, and in a key of its own each layer's width. Stock code makes all layers as wide as the widest one. So checkpoints have
them that way: what a narrower layer lacks is zeros. A unit whose weights and bias are zero says `activation(0)`, which is 0 for
every activation that validation accepts, and its column in the next layer is zero: the answers stay the same. Training leaves
it at zero, too, since no gradient reaches it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.structure import EncoderLayer
from compression.schema.errors import ConfigMismatch

KEY = "ffn_widths"
"""The config's key with each layer's feed-forward units, shallow first. Only the engine's own checkpoints have it: `loading`
drops it from what was uploaded, which is a stock model."""


def layer_widths(config: PretrainedConfig) -> tuple[int, ...] | None:
    """Return the feed-forward units of each layer; None if all have as many as the config's stock key says."""
    found = getattr(config, KEY, None)
    return None if found is None else tuple(found)


def set_layer_widths(config: PretrainedConfig, units: Sequence[int] | None) -> None:
    """Write each layer's feed-forward units into a config; None: all have as many as its stock key says."""
    if units is not None:
        setattr(config, KEY, list(units))
    elif hasattr(config, KEY):
        delattr(config, KEY)


@torch.no_grad()
def narrow(model: PreTrainedModel, layers: Sequence[EncoderLayer]) -> PreTrainedModel:
    """Make the layers of a stock model, in place, as narrow as its config says, and return it. The first units stay."""
    widths = layer_widths(model.config)
    for units, layer in zip(widths, layers, strict=True) if widths is not None else ():
        _resize(layer, layer.up.weight[:units], layer.up.bias[:units], layer.down.weight[:, :units])
    return model


@torch.no_grad()
def check_filled(model: PreTrainedModel, layers: Sequence[EncoderLayer]) -> None:
    """Check a stock model whose config names each layer's width: what lies beyond is zeros. Raises ConfigMismatch."""
    widths, param = layer_widths(model.config) or (), f"config.json:{KEY}"
    if len(widths) != len(layers) or not all(0 < own <= one.up.out_features for own, one in zip(widths, layers, strict=True)):
        raise ConfigMismatch(f"{KEY} is {list(widths)}, which the {len(layers)} layers cannot have", param=param)
    for units, layer in zip(widths, layers, strict=True):
        if any(bool(each.any()) for each in (layer.up.weight[units:], layer.up.bias[units:], layer.down.weight[:, units:])):
            raise ConfigMismatch(f"{KEY} leaves out units that are not zeros", param=param)


@torch.no_grad()
def fill(model: PreTrainedModel, layers: Sequence[EncoderLayer], most: int) -> None:
    """Make all layers of a model, in place, `most` units wide, with zeros; its config says so no longer."""
    for layer in layers:
        more = most - layer.up.out_features
        up, bias, down = layer.up.weight, layer.up.bias, layer.down.weight
        _resize(
            layer, *(functional.pad(each, pad) for each, pad in ((up, (0, 0, 0, more)), (bias, (0, more)), (down, (0, more))))
        )
    set_layer_widths(model.config, None)


def _resize(layer: EncoderLayer, up: Tensor, bias: Tensor, down: Tensor) -> None:
    """Give a layer other matrices. up: (units, hidden), bias: (units,), down: (hidden, units)."""
    layer.up.out_features = layer.down.in_features = len(bias)
    for module, name, values in ((layer.up, "weight", up), (layer.up, "bias", bias), (layer.down, "weight", down)):
        old = getattr(module, name)
        setattr(module, name, nn.Parameter(values.clone(), requires_grad=old.requires_grad))
