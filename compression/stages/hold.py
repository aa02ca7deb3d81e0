"""A teacher in 8 bits, where the recipe says so or the memory for it in float32 is not there."""

from collections.abc import Generator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from compression import families, memory, numerics
from compression.catalog import HELD_BYTES, TRAINED_BYTES, step_bytes
from compression.recipe import Distill
from compression.report import Event, Log
from compression.state import State

GIB = 2**30
SAID = "The teacher's weights are held in 8 bits"
HELD = "held"
"""Under this name a training's save keeps that its teacher is held so."""
FILE = "teacher-weights.safetensors"


def lighten(
    state: State, settings: Distill, guide: PreTrainedModel, *, before: bool, again: bool = False
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
        room, need = free(state), needed(state)
        if room is None or need <= room:
            return False, ""
        why = f"training needs about {need / GIB:.1f} GiB more, and {room / GIB:.1f} are free"
    if again:
        save_file(dict(numerics.to_hold(guide)), _place(state))
    count = numerics.hold(guide)
    said = f"{SAID} ({count:,} of them; one scale a row): {why}."
    note(state, said)
    yield Log(message=said)
    return True, said


def unburden(state: State, guide: PreTrainedModel) -> None:
    """Make a teacher float again, to the bit, that `lighten` has held with `again`."""
    place = _place(state)
    with safe_open(place, "pt") as file:
        numerics.let_go(guide, file.get_tensor)
    place.unlink()


def note(state: State, said: str) -> None:
    """Have the row say once what was said of a teacher, also where its notes are those of an earlier attempt's save."""
    if said and not any(one.startswith(SAID) for one in state.notes):
        state.notes.append(said)


def _place(state: State) -> Path:
    if state.scratch is None:
        raise ValueError("the weights of a teacher that is rounded for a while need a folder")
    return state.scratch / FILE


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
