"""How exactly teachers are asked: in bfloat16 on a device that has it, and with weights in int8 if memory asks for it."""

from collections.abc import Generator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from compression.distillation.objective import AnyTeacher
from compression.engine.context import StageContext
from compression.engine.training_memory import GIB, free, needed
from compression.models.tensors import Tensors
from compression.quantization.frozen_int8 import freeze_int8, layers_to_freeze, unfreeze
from compression.quantization.precision import has_bfloat16
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill

NOTE = "The teacher's weights are held in 8 bits"
HELD = "held"  #: key under which a training's save records that its teacher is in int8
ASKED = "asked"
"""Key under which a training's save records how its teachers were asked: whether in int8, and whether each one's features were
cached. 1: no, 2: yes, 3: one attempt so and another otherwise."""
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
    if asked == "float32" or context.recipe.train.devices > 1:
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


def record_asking(saved: Tensors, beside: Tensors, teacher: AnyTeacher) -> list[str]:
    """Put how teachers are asked into what a training's saves store, `beside`, which has HELD if the guide is in int8. Return a
    note if an earlier attempt, whose save stored `saved`, asked them otherwise: what fits is decided by each attempt.
    """
    now = torch.tensor([1 + one for one in (HELD in beside, *teacher.caches)], dtype=torch.uint8)
    beside[ASKED] = now | saved.get(ASKED, now)
    held, *cached = (beside[ASKED] == 3).tolist()
    ways = ["with its weights in 8 bits"] * held + ["anew in each epoch"] * any(cached)
    if not ways:
        return []
    return [
        "This training went on where memory or disk had other room: for a part of it the teacher was asked "
        f"{' and '.join(ways)}, for another it was not. So its weights are not to the bit those of a training without a stop."
    ]


def _place(context: StageContext) -> Path:
    if context.scratch is None:
        raise ValueError("a folder is needed for the weights of a teacher that is quantized for a while")
    return context.scratch / FILE
