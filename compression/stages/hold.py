"""A teacher in 8 bits, where the recipe says so or the memory for it in float32 is not there."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from compression import families, memory, numerics
from compression.catalog import HELD_BYTES, TRAINED_BYTES, step_bytes
from compression.recipe import Distill
from compression.report import Event, Log
from compression.state import State

GIB = 2**30


def lighten(state: State, settings: Distill, guide: PreTrainedModel) -> Iterator[Event]:
    """Hold a frozen teacher's weights in 8 bits, in place, and say so and why.

    Of `auto` it is the memory that is free now that decides, so another attempt may find otherwise.
    """
    asked = settings.teachers.precision
    if asked == "float32":
        return
    why = "as the recipe says"
    if asked == "auto":
        room, need = free(state), needed(state)
        if room is None or need <= room:
            return
        why = f"training needs about {need / GIB:.1f} GiB more, and {room / GIB:.1f} are free"
    count = numerics.hold(guide)
    said = f"The teacher's weights are held in 8 bits ({count:,} of them; one scale a row): {why}."
    state.notes.append(said)
    yield Log(message=said)


def needed(state: State) -> int:
    """Reckon what training the student will take beside what is there: gradients, moments, and what a step keeps."""
    trained: int = sum(parameter.numel() for parameter in state.model.parameters())
    shape = families.of(state.model).shape_of(state.model.config)
    longest = max(map(len, state.rows["train"].tokens))
    step: int = step_bytes(shape, state.recipe.train, longest) // state.parts
    return (TRAINED_BYTES - HELD_BYTES) * trained + step


def free(state: State) -> int | None:
    """Return the bytes that training can have where it runs; None where nobody tells."""
    if state.device.type == "cuda":
        kept: int = torch.cuda.memory_reserved(state.device) - torch.cuda.memory_allocated(state.device)
        unused: int = torch.cuda.mem_get_info(state.device)[0]
        return unused + kept
    rooms = [memory.available()]
    if state.memory is not None:
        rooms.append(max(state.memory - memory.resident(), 0))
    return min((room for room in rooms if room is not None), default=None)
