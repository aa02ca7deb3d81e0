"""Describes what an artifact reads and answers, and tries it at its smallest and largest sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compression.modalities.made_inputs import made_inputs, pass_over
from compression.modalities.modality import InputFacts
from compression.modalities.registry import modality_for
from compression.modalities.scoring.base import Declared, Inputs, Runner
from compression.schema.errors import ExportMismatch
from compression.schema.manifest import BATCH, LENGTH, InputTensor, Interface, Tensor

LONGEST_TRIED = 512
"""Positions of the largest row that is tried here: attention over the 8,192 of some models would take gigabytes. Checkpoints,
which do not serve, are tried at the length of their sample: without VNNI torchao takes minutes for 512 tokens."""


def interface_of(
    runner: Runner[Any], model: nn.Module, folder: Path, asked: Sequence[Inputs], *, longest: int = LONGEST_TRIED
) -> Interface:
    """Describe a reopened artifact, once it answered at its smallest and largest sizes. Raises ExportMismatch if it cannot.

    folder: of the artifact; asked: the batches that it was compared on, the last one the largest. longest: positions of
    a row that are tried at most, if none of those had more.
    """
    modality = modality_for(model)
    facts, free = modality.input_facts(model, folder), modality.free_dimensions(model)
    declared = getattr(runner, "declared", None)  # of runtimes whose files name their inputs
    given, outputs = declared() if declared is not None else (_read_by(model, free), [])
    renamed = _renamed(given, facts)
    inputs = tuple(InputTensor(**_stated(one, facts, free, renamed), **_range(facts.get(one.name))) for one in given)
    described = Interface(
        inputs=inputs,
        outputs=tuple(Tensor(**_stated(one, {}, {one.name: {0: (BATCH, None)}}, renamed)) for one in outputs),
        largest={name: most for axes in free.values() for name, most in axes.values() if most},
        tested=(),
    )
    tested = _tried(runner, described, asked[-1].shape, longest if declared is not None else 0)
    return described.model_copy(update={"tested": tested})


def _read_by(model: nn.Module, free: Mapping[str, Mapping[int, tuple[str, int | None]]]) -> list[Declared]:
    """Return the inputs that stock code gives a model."""
    return [
        Declared(
            name,
            str(value.dtype).removeprefix("torch."),
            tuple(free[name][axis][0] if axis in free[name] else size for axis, size in enumerate(value.shape)),
        )
        for name, value in modality_for(model).example_inputs(model, 1, 1).items()
    ]


def _renamed(given: Sequence[Declared], facts: Mapping[str, InputFacts]) -> dict[str, str]:
    """Return the names of axes by those that a file has for them.

    A name is given once: a mask over cached tokens too is not as long as the row of new ones, though it is an input of rows.
    """
    found: dict[str, str] = {}
    for one in given:
        axes = facts[one.name].axes if one.name in facts else ()
        for size, axis in zip(one.sizes, axes, strict=False):
            if isinstance(size, str) and size not in found and axis not in found.values():
                found[size] = axis
    return found


def _stated(
    one: Declared,
    facts: Mapping[str, InputFacts],
    free: Mapping[str, Mapping[int, tuple[str, int | None]]],
    renamed: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fields of a Tensor. An axis without any name has its number."""
    axes = []
    for place, size in enumerate(one.sizes):
        if isinstance(size, str):
            axes.append(renamed.get(size, size))
        elif one.name in facts:
            axes.append(facts[one.name].axes[place])
        else:
            axes.append(free.get(one.name, {}).get(place, (f"axis{place}",))[0])
    shape = tuple(size if isinstance(size, int) else None for size in one.sizes)
    return {"name": one.name, "dtype": one.dtype, "axes": tuple(axes), "shape": shape}


def _range(facts: InputFacts | None) -> dict[str, float | None]:
    return {} if facts is None else {"low": facts.low, "high": facts.high, "usual": facts.usual}


def _tried(runner: Runner[Any], described: Interface, shape: tuple[int, int], longest: int) -> tuple[dict[str, int], ...]:
    """Run the artifact at its smallest and largest sizes; return them, with the typical one between. Raises ExportMismatch."""
    rows, positions = shape
    typical = {BATCH: rows, **({LENGTH: positions} if positions else {})}
    most = {LENGTH: max(positions, min(described.largest.get(LENGTH, 0), longest))} if positions else {}
    smallest, largest = dict.fromkeys(typical, 1), {BATCH: 1, **most}
    for sizes in (smallest, largest):
        try:
            logits = pass_over(runner, made_inputs(described, sizes))
        except Exception as problem:
            raise ExportMismatch(f"the reopened artifact takes no inputs of {sizes}: {problem}") from problem
        if len(logits) != sizes[BATCH] or not np.isfinite(logits).all():
            raise ExportMismatch(f"of inputs of {sizes} the reopened artifact answers {logits.shape}, or not in finite numbers")
    return smallest, typical, largest
