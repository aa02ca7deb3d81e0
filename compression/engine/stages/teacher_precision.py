"""A teacher in 8 bits, where the recipe says so or the memory for it in float32 is not there."""

from collections.abc import Generator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.models.adapters.registry import adapter_of
from compression.planning.estimator import HELD_BYTES, TRAINED_BYTES, step_bytes
from compression.quantization.frozen_int8 import freeze_int8, layers_to_freeze, unfreeze
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill
from compression.system import memory

GIB = 2**30
SAID = "The teacher's weights are held in 8 bits"
HELD = "held"
"""Under this name a training's save keeps that its teacher is held so."""
FILE = "teacher-weights.safetensors"


def quantize_teacher(
    context: StageContext, settings: Distill, guide: PreTrainedModel, *, before: bool, again: bool = False
) -> Generator[Event, None, tuple[bool, str]]:
    """Hold a frozen teacher's weights in 8 bits, in place, and say so and why. Returns whether it is held, and what was said.

    Of `auto` it is the memory that is free now that decides. before: whether the attempt that this one goes on from held it so:
    then it is, whatever is free, for what is trained is to be the same. again: whether `unburden` shall make it float again,
    since more is asked of it later: then its weights wait in the job's scratch folder. Raises ValueError where there is none.
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
    said = f"{SAID} ({count:,} of them; one scale a row): {why}."
    note(context, said)
    yield Log(message=said)
    return True, said


def restore_teacher(context: StageContext, guide: PreTrainedModel) -> None:
    """Make a teacher float again, to the bit, that `lighten` has held with `again`."""
    place = _place(context)
    with safe_open(place, "pt") as file:
        unfreeze(guide, file.get_tensor)
    place.unlink()


def note(context: StageContext, said: str) -> None:
    """Have the row say once what was said of a teacher, also where its notes are those of an earlier attempt's save."""
    if said and not any(one.startswith(SAID) for one in context.notes):
        context.notes.append(said)


def _place(context: StageContext) -> Path:
    if context.scratch is None:
        raise ValueError("the weights of a teacher that is rounded for a while need a folder")
    return context.scratch / FILE


def needed(context: StageContext) -> int:
    """Reckon what training the student will take beside what is there: gradients, moments, the weights of the last good epoch
    and of the best, and what a step keeps."""
    trained: int = sum(parameter.numel() for parameter in context.model.parameters())
    shape = adapter_of(context.model).shape_of(context.model.config)
    longest = max(context.rows["train"].lengths)
    step: int = step_bytes(shape, context.recipe.train, longest) // context.parts
    return (TRAINED_BYTES - HELD_BYTES) * trained + step


def free(context: StageContext) -> int | None:
    """Return the bytes that training can have where it runs; None where nobody tells."""
    if context.device.type == "cuda":
        kept: int = torch.cuda.memory_reserved(context.device) - torch.cuda.memory_allocated(context.device)
        unused: int = torch.cuda.mem_get_info(context.device)[0]
        return unused + kept
    rooms = [memory.available()]
    if context.memory is not None:
        rooms.append(max(context.memory - memory.resident(), 0))
    return min((room for room in rooms if room is not None), default=None)
