"""What a training needs of its device's memory beside the models that are there, what is free, and what follows from both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compression.models.adapters.registry import adapter_of
from compression.planning.distillation_rules import compares_states
from compression.planning.memory import (
    COPIED_BYTES,
    GRADIENT_BYTES,
    HELD_BYTES,
    Products,
    has_half_products,
    kept_by,
    moment_bytes,
    step_bytes,
)
from compression.quantization.fake_quantize import is_simulated
from compression.system import memory
from compression.training.gradient_checkpointing import layers_of

if TYPE_CHECKING:
    from compression.engine.context import StageContext

GIB = 2**30


def needed(context: StageContext, *, recompute: bool | None = None, compared: bool = False) -> int:
    """Estimate the bytes of training the student on its device, on a CPU for all processes that train together: gradients,
    moments, a step's activations and its weights in the type of the products, and on a CPU two copies of its weights, which are
    in the host's memory.

    recompute: whether layers are computed again. None: the least that the recipe allows; a device beside the CPU may then also
    take a single row at a time. compared: whether the loss reads what layers make, so that several processes gather them all.
    """
    train = context.recipe.train
    trained: int = sum(parameter.numel() for parameter in context.model.parameters())
    family, config = adapter_of(context.model), context.model.config
    on_card, least = context.device.type != "cpu", recompute is None
    if least:
        recompute = train.checkpointing != "off" and bool(layers_of(context.model))
    floats: Products = "bfloat16" if has_half_products(train, context.device.type) else "float32"
    products = "int8" if is_simulated(context.model) else floats
    devices = context.processes.size
    shares, each = (devices, 1) if on_card else (1, devices)  # a card has one of the processes, a host all of them
    rows = each * train.rows(least=least and on_card) / context.parts
    longest, network = max(context.rows["train"].lengths), family.network(config)
    shape, copies = family.shape_of(config), 0 if on_card else COPIED_BYTES
    step = step_bytes(shape, rows, longest, network, products, recompute=bool(recompute))
    step += each * kept_by(shape)[products].weight * _multiplied(context) // (shape.layers if recompute else 1)
    held = (GRADIENT_BYTES + copies) * trained + moment_bytes(train.optimizer, trained)
    if devices == 1:
        return held + step
    # The first process's weights make room for shards, and for the weights and gradients that each gathers.
    gathered = (HELD_BYTES + GRADIENT_BYTES) * (trained if compared else _whole_at_a_time(context))
    return (held + HELD_BYTES * trained) // shares - HELD_BYTES * trained + each * gathered + step


def _whole_at_a_time(context: StageContext) -> int:
    """Return how many parameters one of several processes gathers at a time: those of no layer, and of two layers."""
    layers: list[int] = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers_of(context.model)]
    total: int = sum(parameter.numel() for parameter in context.model.parameters())
    return total - sum(layers) + sum(sorted(layers)[-2:])


def _multiplied(context: StageContext) -> int:
    """Count the weights of a step's products but for a language model's output layer, which its loss reads in chunks."""
    family, model = adapter_of(context.model), context.model
    found = family.parameters_of(model).other
    out = family.head(model).out if context.task.packed is not None else None
    tables = {id(table.weight) for table in model.modules() if isinstance(table, nn.Embedding)}
    return found if out is None or id(out.weight) in tables else found - out.weight.numel()


def free(context: StageContext) -> int | None:
    """Return the bytes that are free for training on its device; None if unknown."""
    if context.device.type == "cuda":
        kept: int = torch.cuda.memory_reserved(context.device) - torch.cuda.memory_allocated(context.device)
        unused: int = torch.cuda.mem_get_info(context.device)[0]
        return unused + kept
    rooms = [memory.available()]
    if context.memory is not None:
        rooms.append(max(context.memory - memory.resident(), 0))
    return min((room for room in rooms if room is not None), default=None)


def checkpoints_gradients(context: StageContext, name: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a training computes its layers again in the backward pass, and a remark if memory decided so.

    name: of the training. With `train.checkpointing: auto` it does if its forecast exceeds the free memory of its device.
    """
    asked = context.recipe.train.checkpointing
    if asked != "auto" or not layers_of(context.model):
        return asked == "on", ()
    distill = context.recipe.distill
    compared = name.startswith("distill") and distill is not None and compares_states(distill)
    room, need = free(context), needed(context, recompute=False, compared=compared)
    if room is None or need <= room:
        return False, ()
    why = f"training needs about {need / GIB:.1f} GiB more without, and {room / GIB:.1f} are free"
    return True, (f"{name} computes layers again in the backward pass (gradient checkpointing): {why}.",)
