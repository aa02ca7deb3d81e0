"""A teacher in 8 bits, where the recipe says so or the memory for it in float32 is not there."""

from collections.abc import Generator

import torch
from transformers import PreTrainedModel

from compression import families, memory, numerics
from compression.catalog import HELD_BYTES, TRAINED_BYTES, step_bytes
from compression.recipe import Distill
from compression.report import Event, Log
from compression.state import State

GIB = 2**30
SAID = "The teacher's weights are held in 8 bits"


def lighten(
    state: State, settings: Distill, guide: PreTrainedModel, *, before: bool
) -> Generator[Event, None, tuple[bool, str]]:
    """Hold a frozen teacher's weights in 8 bits, in place, and say so and why. Returns whether it is held, and what was said.

    Of `auto` it is the memory that is free now that decides. before: whether the attempt that this one goes on from held it so:
    then it is, whatever is free, for what is trained is to be the same.
    """
    asked = settings.teachers.precision
    if asked == "float32":
        return False, ""
    why = "as the recipe says" if asked == "int8" else "as the attempt before had it"
    if asked == "auto" and not before:
        room, need = free(state), needed(state)
        if room is None or need <= room:
            return False, ""
        why = f"training needs about {need / GIB:.1f} GiB more, and {room / GIB:.1f} are free"
    count = numerics.hold(guide)
    said = f"{SAID} ({count:,} of them; one scale a row): {why}."
    state.notes.append(said)
    yield Log(message=said)
    return True, said


def needed(state: State) -> int:
    """Reckon what training the student will take beside what is there: gradients, moments, the weights of the last good epoch
    and of the best, and what a step keeps."""
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
