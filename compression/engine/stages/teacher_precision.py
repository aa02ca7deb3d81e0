"""How exactly teachers are asked: in bfloat16 on a device that has it, and with weights in int8 if memory asks for it."""

from collections.abc import Generator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.models.adapters.registry import adapter_of
from compression.planning.memory import COPIED_BYTES, HELD_BYTES, TRAINED_BYTES, Products, step_bytes
from compression.quantization.fake_quantize import is_simulated
from compression.quantization.frozen_int8 import freeze_int8, layers_to_freeze, unfreeze
from compression.quantization.precision import has_bfloat16
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill
from compression.system import memory

GIB = 2**30
NOTE = "The teacher's weights are held in 8 bits"
HELD = "held"  #: key under which a training's save records that its teacher is in int8
FILE = "teacher-weights.safetensors"


def asks_in_half(context: StageContext, settings: Distill) -> bool:
    """Return whether teachers multiply in bfloat16 for outputs that are computed once: on a device beside the CPU that has it,
    unless the recipe asks for teachers or for training in float32.
    """
    exact = "float32" in (settings.teachers.precision, context.recipe.train.precision)
    return not exact and context.device.type != "cpu" and has_bfloat16(context.device)


def quantize_teacher(
    context: StageContext, settings: Distill, guide: PreTrainedModel, *, before: bool, again: bool = False
) -> Generator[Event, None, tuple[bool, str]]:
    """Quantize the frozen teacher's weights to int8 in place; return whether it was done, and the logged reason.

    With `auto`, the memory that is free now decides. before: whether the attempt that this one resumes had it quantized: then
    it is quantized whatever is free, so that the training is the same. again: whether the teacher runs again later: its float
    weights are then saved in the scratch folder for `restore_teacher`. Raises ValueError if there is no such folder.
    """
    asked = settings.teachers.precision
    if asked == "float32":
        return False, ""
    why = "as the recipe says" if asked == "int8" else "as the attempt before had it"
    if asked == "auto" and not before:
        room, need = free(context), needed(context)
        if room is None or need <= room:
            return False, ""
        why = f"training needs about {need / GIB:.1f} GiB more, and {room / GIB:.1f} are free"
    if again:
        save_file(dict(layers_to_freeze(guide)), _place(context))
    count = freeze_int8(guide)
    reason = f"{NOTE} ({count:,} of them; one scale a row): {why}."
    note(context, reason)
    yield Log(message=reason)
    return True, reason


def restore_teacher(context: StageContext, guide: PreTrainedModel) -> None:
    """Restore, bit for bit, the float weights of a teacher quantized by `quantize_teacher` with `again`."""
    place = _place(context)
    with safe_open(place, "pt") as file:
        unfreeze(guide, file.get_tensor)
    place.unlink()


def note(context: StageContext, reason: str) -> None:
    """Add a teacher's note to the row once, even if the row's notes come from an earlier attempt's save."""
    if reason and not any(one.startswith(NOTE) for one in context.notes):
        context.notes.append(reason)


def _place(context: StageContext) -> Path:
    if context.scratch is None:
        raise ValueError("a folder is needed for the weights of a teacher that is quantized for a while")
    return context.scratch / FILE


def needed(context: StageContext) -> int:
    """Estimate the bytes of training the student on its device: gradients, moments, a step's activations, and on a CPU two
    copies of its weights, which are in the host's memory.
    """
    trained: int = sum(parameter.numel() for parameter in context.model.parameters())
    family, config = adapter_of(context.model), context.model.config
    longest = max(context.rows["train"].lengths)
    products: Products = "int8" if is_simulated(context.model) else "float32"
    kept = step_bytes(family.shape_of(config), context.recipe.train, longest, family.network(config), products)
    step: int = kept // context.parts
    elsewhere = 0 if context.device.type == "cpu" else COPIED_BYTES
    return (TRAINED_BYTES - HELD_BYTES - elsewhere) * trained + step


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
