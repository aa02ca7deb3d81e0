"""Computes the error tables of a model, and updates the weights that read a cut's units as the tables assume.

Passes over the calibration rows collect second moments of the inputs of as many layers as memory allows; a group's units are
then removed one after another (`unit_removal`), which needs no further pass.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer
from compression.models.linear_layers import set_matrix, whole_matrix
from compression.models.tensors import Tensors
from compression.pruning.integer_errors import integer_errors
from compression.pruning.layer_inputs import InputCollector, collect_inputs, layer_changes
from compression.pruning.unit_removal import DAMPING, PIECES, Reader, remove_units, updated
from compression.quantization.fake_quantize import simulation_of
from compression.schema.error_tables import WIDTHS, ErrorTables, GroupErrors, LayerErrors, WidthError
from compression.schema.recipe.prune import SHRINKING

METHOD = 1  #: raise it if the same inputs give other tables
MOST_BYTES = 1 << 30
"""Of second moments that are collected in one pass; one group's may be more."""
Batches = Callable[[], Iterable[Batch]]
"""Begins a pass over the calibration rows."""


def tables_digest(model: PreTrainedModel, batches: Batches) -> str:
    """Return the SHA-256 of all that error tables depend on: weights, simulated integers, calibration rows and settings."""
    simulation = simulation_of(model)
    facts = (METHOD, DAMPING, PIECES, WIDTHS, None if simulation is None else simulation.model_dump_json())
    found = hashlib.sha256(f"{facts} {type(model).__name__}".encode())
    for name, tensor in model.state_dict().items():
        _add(found, name, tensor)
    for batch in batches():
        for name, tensor in sorted(batch.inputs.items()):
            _add(found, name, tensor)
    return found.hexdigest()


def _add(found: "hashlib._Hash", name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):  # an option of the model's forward
        found.update(f"{name} {tensor} ".encode())
        return
    found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@torch.no_grad()
def compute_tables(
    model: PreTrainedModel, batches: Batches, digest: str, check_pause: Callable[[], None] = lambda: None
) -> Generator[str, None, tuple[ErrorTables, Tensors]]:
    """Compute a model's error tables and, by group, the order in which its units go; yield each group's key before its turn.

    Of groups that no layer with a matrix reads there are none. Raises what
    `check_pause` raises.
    """
    started = time.monotonic()
    groups: list[GroupErrors] = []
    orders: Tensors = {}
    readers = readers_of(model)
    for keys in _passes(model, readers):
        names = {name for key in keys for name in readers[key]}
        seen = collect_inputs(model, [name for name, _ in model.named_modules() if name in names], batches(), check_pause)
        for key in keys:
            yield key
            check_pause()
            own = {name: columns for name, columns in readers[key].items() if seen.inputs(name) is not None}
            if not own:
                continue
            units = len(next(iter(own.values())))
            order, errors = remove_units(_joined(model, seen, own), units)
            points = tuple(WidthError(units=width, error=error) for width, error in errors.items())
            groups.append(GroupErrors(key=key, readers=len(own), points=points))
            orders[key] = order.cpu()
    layers, integers = _layers(model, batches, check_pause), integer_errors(model, batches(), check_pause)
    rows = sum(len(batch.mask) for batch in batches())
    seconds = time.monotonic() - started
    return ErrorTables(
        digest=digest, rows=rows, seconds=seconds, groups=tuple(groups), layers=layers, integers=integers
    ), orders


def readers_of(model: PreTrainedModel) -> dict[str, dict[str, Tensor]]:
    """Return, by group that a recipe may cut, the layers that read its units: name → columns of each unit."""
    family = adapter_of(model)
    found = {}
    for key in family.group_keys(model):
        if axis_and_layer(key)[0] in SHRINKING and (readers := family.readers(model, key)):
            found[key] = readers
    return found


def _layers(model: PreTrainedModel, batches: Batches, check_pause: Callable[[], None]) -> tuple[LayerErrors, ...]:
    family = adapter_of(model)
    streams = family.streams(model)
    if not streams:
        return ()
    names = list(family.layer_kinds(model.config)) or [str(number) for number in range(len(streams))]
    changes = layer_changes(model, streams, batches(), check_pause)
    groups = family.layer_groups(model)
    return tuple(
        LayerErrors(name=name, change=change, groups=own) for name, change, own in zip(names, changes, groups, strict=True)
    )


def _passes(model: PreTrainedModel, readers: Mapping[str, Mapping[str, Tensor]]) -> Iterator[list[str]]:
    """Yield the groups whose readers' second moments are in memory at one time."""
    keys: list[str] = []
    names: dict[str, int] = {}
    for key, own in readers.items():
        sizes = {name: 8 * whole_matrix(model.get_submodule(name)).shape[1] ** 2 for name in own}
        if keys and sum({**names, **sizes}.values()) > MOST_BYTES:
            yield keys
            keys, names = [], {}
        keys.append(key)
        names |= sizes
    if keys:
        yield keys


def _joined(model: PreTrainedModel, seen: InputCollector, own: Mapping[str, Tensor]) -> list[Reader]:
    """Return the readers of a group; those that read the very same are one, with a matrix of all their outputs."""
    found: dict[tuple[str, bool], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for name, columns in own.items():
        layer, inputs = model.get_submodule(name), seen.inputs(name)
        assert inputs is not None  # noqa: S101 (the caller chose those that ran)
        weight = whole_matrix(layer).double()
        shares = weight / max(inputs.energy(weight), 1e-30) ** 0.5
        biased = has_bias(layer)
        same = (seen.same_as.get(name, name), biased)
        found.setdefault(same, []).append((shares, inputs.moments(biased=biased), columns.to(weight.device)))
    return [Reader(torch.cat([weight for weight, _, _ in each]), each[0][1], each[0][2]) for each in found.values()]


def has_bias(layer: nn.Module) -> bool:
    """Return whether a layer has a bias, which takes up the mean of what is lost."""
    return getattr(layer, "bias", None) is not None


@contextmanager
def compensated(
    model: PreTrainedModel, plan: PruningPlan, batches: Batches, check_pause: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Give the layers that read units which a plan takes the weights that the tables assume, until the context ends.

    The columns of these units become 0 and the others take up what they can, so a cut of the model in the context keeps them.
    Raises what `check_pause` raises.
    """
    before: dict[str, Tensor] = {}
    try:
        for name, weight, bias in _updates(model, plan, batches, check_pause):
            before[f"{name}.weight"] = model.get_parameter(f"{name}.weight").data.clone()
            set_matrix(model.get_submodule(name), weight)
            if bias is not None:
                before[f"{name}.bias"] = model.get_parameter(f"{name}.bias").data.clone()
                model.get_parameter(f"{name}.bias").data.copy_(bias)
        yield
    finally:
        for name, value in before.items():
            model.get_parameter(name).data.copy_(value)


@torch.no_grad()
def _updates(
    model: PreTrainedModel, plan: PruningPlan, batches: Batches, check_pause: Callable[[], None]
) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return each layer's name, new weight and new bias. Moments are all of the model as it is, not of one half updated."""
    readers, found = readers_of(model), list[tuple[str, Tensor, Tensor | None]]()
    lost: dict[str, Tensor] = {}
    for key, own in readers.items():
        kept = plan.of(*axis_and_layer(key))
        for name, columns in own.items():
            gone = lost.setdefault(name, torch.zeros(whole_matrix(model.get_submodule(name)).shape[1], dtype=torch.bool))
            if kept is not None:
                units = torch.ones(len(columns), dtype=torch.bool)
                units[kept] = False
                gone[columns[units].flatten()] = True
    names = [name for name, gone in lost.items() if gone.any()]
    sizes = {name: {name: torch.empty(0)} for name in names}
    for some in _passes(model, sizes):
        seen = collect_inputs(model, some, batches(), check_pause)
        for name in some:
            layer, inputs = model.get_submodule(name), seen.inputs(name)
            if inputs is None:
                continue
            weight, biased = whole_matrix(layer).double(), has_bias(layer)
            new = updated(weight, inputs.moments(biased=biased), ~lost[name].to(weight.device))
            bias = layer.bias.double() + (weight - new) @ inputs.mean if biased else None
            found.append((name, new.to(whole_matrix(layer).dtype), bias))
    return found
