"""Computes the error tables of a model, and updates the weights that read a cut's units as the tables assume.

Passes over the calibration rows collect second moments of the inputs of as many layers as memory allows (`layer_inputs`). Units
are then removed one after another (`unit_removal`) and weights are updated without a further pass.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer
from compression.models.linear_layers import set_matrix, whole_matrix
from compression.models.tensors import Tensors
from compression.planning.table_work import removal_itemsize
from compression.pruning.integer_errors import rounding_collector
from compression.pruning.layer_inputs import Batches, ChangeCollector, KeptInputs
from compression.pruning.unit_removal import DAMPING, PIECES, Reader, gram_of, remove_units, substitutes, updated
from compression.quantization.fake_quantize import EIGHT_BITS, simulation_of
from compression.schema.error_tables import WIDTHS, ErrorTables, GroupErrors, LayerErrors, WidthError
from compression.schema.recipe.prune import SHRINKING
from compression.schema.schemes import SCHEMES

METHOD = 2  #: raise it if the same inputs give other tables
OF_NO_LAYER = frozenset({"_name_or_path", "transformers_version", "id2label", "label2id", "architectures"})
"""Keys of a config that change nothing of what layers read."""
TYPES = {4: torch.float32, 8: torch.float64}


def tables_digest(model: PreTrainedModel, batches: Batches) -> str:
    """Return the SHA-256 of all that error tables depend on: config, weights, simulated integers, calibration rows and
    settings.
    """
    simulation = simulation_of(model)
    facts: tuple[object, ...] = (METHOD, DAMPING, PIECES, WIDTHS, None if simulation is None else simulation.model_dump_json())
    if simulation is not None and SCHEMES[simulation.scheme].grouped:
        facts += (EIGHT_BITS,)  # tables of before lack the errors in 8 bits
    config = {key: value for key, value in model.config.to_dict().items() if key not in OF_NO_LAYER}
    told = json.dumps(config, sort_keys=True, default=str)
    found = hashlib.sha256(f"{facts} {type(model).__name__} {told}".encode())
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
    model: PreTrainedModel, inputs: KeptInputs, digest: str
) -> Generator[None, None, tuple[ErrorTables, Tensors]]:
    """Compute a model's error tables and, by group, the order in which its units go; yield often. inputs: of no layer yet; they
    hold those of all readers then.

    Of groups that no layer with a matrix reads there are none.
    """
    started = time.monotonic()
    family, readers = adapter_of(model), readers_of(model)
    changes, rounding = ChangeCollector(family.streams(model)), rounding_collector(model)
    yield from inputs.collect(model, names_of(readers), [changes, *([rounding] if rounding is not None else [])])
    groups: list[GroupErrors] = []
    orders: Tensors = {}
    for key, every in readers.items():
        own = {name: columns for name, columns in every.items() if inputs.has(name)}
        if not own:
            continue
        joined = yield from group_readers(model, inputs, own)
        order, errors = yield from remove_units(joined, len(next(iter(own.values()))))
        points = tuple(WidthError(units=width, error=error) for width, error in errors.items())
        groups.append(GroupErrors(key=key, readers=len(own), points=points))
        orders[key] = order.cpu()
    tables = ErrorTables(
        digest=digest,
        rows=inputs.rows,
        seconds=time.monotonic() - started,
        groups=tuple(groups),
        layers=_layers(model, changes.changes()),
        integers=rounding.errors() if rounding is not None else (),
    )
    return tables, orders


def readers_of(model: PreTrainedModel) -> dict[str, dict[str, Tensor]]:
    """Return, by group that a recipe may cut, the layers that read its units: name → columns of each unit. An output layer that
    is the token table is none: with other weights the table would say something else.
    """
    family, found = adapter_of(model), {}
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    for key in family.group_keys(model):
        if axis_and_layer(key)[0] not in SHRINKING:
            continue
        readers = {
            name: columns
            for name, columns in family.readers(model, key).items()
            if not any(model.get_submodule(name).weight is table for table in tables)
        }
        if readers:
            found[key] = readers
    return found


def names_of(readers: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
    """Return the names of all layers that read groups."""
    return {name for own in readers.values() for name in own}


def _layers(model: PreTrainedModel, changes: list[float]) -> tuple[LayerErrors, ...]:
    family = adapter_of(model)
    if not changes:
        return ()
    names = list(family.layer_kinds(model.config)) or [str(number) for number in range(len(changes))]
    groups = family.layer_groups(model)
    return tuple(
        LayerErrors(name=name, change=change, groups=own) for name, change, own in zip(names, changes, groups, strict=True)
    )


def group_readers(model: PreTrainedModel, inputs: KeptInputs, own: Mapping[str, Tensor]) -> Generator[None, None, list[Reader]]:
    """Return the readers of a group; those that read the very same are one. In float32 if memory has no room for double
    precision. Yield after each. own: layers whose inputs are known, with the columns of each unit.
    """
    together: dict[tuple[str, bool], list[str]] = {}
    for name in own:
        together.setdefault((inputs.key(name), has_bias(model.get_submodule(name))), []).append(name)
    sizes = [whole_matrix(model.get_submodule(names[0])).shape[1] for names in together.values()]
    dtype, found = TYPES[removal_itemsize(sizes)], list[Reader]()
    for (_, biased), names in together.items():
        seen = inputs.of(names[0])
        assert seen is not None  # noqa: S101 (the caller chose those that ran)
        second, moments = seen.second.double(), seen.moments(biased=biased)
        weights = [whole_matrix(model.get_submodule(name)).detach() for name in names]
        energies = [float((gram_of(weight) * second).sum()) for weight in weights]
        found.append(Reader(moments, own[names[0]].to(moments.device), weights, energies).to(dtype))
        yield
    return found


def has_bias(layer: nn.Module) -> bool:
    """Return whether a layer has a bias, which takes up the mean of what is lost."""
    return getattr(layer, "bias", None) is not None


@contextmanager
def compensated(
    model: PreTrainedModel, plan: PruningPlan, inputs: KeptInputs, check_pause: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Give the layers that read units which a plan takes the weights that the tables assume, until the context ends.

    The columns of these units become 0 and the others take up what they can, so a cut of the model in the context keeps them.
    inputs: of all layers that read what may be cut. Raises what `check_pause` raises, before each layer.
    """
    before: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, weight, bias in _updates(model, plan, inputs, check_pause):
                layer = model.get_submodule(name)
                before[f"{name}.weight"] = model.get_parameter(f"{name}.weight").data.clone()
                set_matrix(layer, weight)
                if bias is not None:
                    before[f"{name}.bias"] = model.get_parameter(f"{name}.bias").data.clone()
                    model.get_parameter(f"{name}.bias").data.copy_(bias)
        yield
    finally:
        for name, value in before.items():
            model.get_parameter(name).data.copy_(value)


def _updates(
    model: PreTrainedModel, plan: PruningPlan, inputs: KeptInputs, check_pause: Callable[[], None]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield each layer's name, new weight and new bias. Inputs are all of the model as it is, not of one half updated."""
    last: tuple[object, ...] = ()
    for name, gone in _lost_columns(model, plan).items():
        check_pause()
        layer, seen = model.get_submodule(name), inputs.of(name)
        if seen is None:
            continue
        weight, biased = whole_matrix(layer), has_bias(layer)
        kept = ~gone.to(weight.device)
        here = (inputs.key(name), biased, gone.tolist())
        if last[:1] != (here,):  # layers that read the same follow each other
            last = (here, substitutes(seen.moments(biased=biased).to(weight.device), kept))
        replacing = last[1]
        assert isinstance(replacing, Tensor)  # noqa: S101 (the second of the pair)
        new = updated(weight, replacing, kept)
        yield name, new, layer.bias + ((weight - new).double() @ seen.mean.to(weight.device)) if biased else None


def _lost_columns(model: PreTrainedModel, plan: PruningPlan) -> dict[str, Tensor]:
    """Return the layers that read units which a plan takes, each with whether a column goes, (columns,)."""
    lost: dict[str, Tensor] = {}
    for key, own in readers_of(model).items():
        kept = plan.of(*axis_and_layer(key))
        if kept is None:
            continue
        for name, columns in own.items():
            gone = lost.setdefault(name, torch.zeros(whole_matrix(model.get_submodule(name)).shape[1], dtype=torch.bool))
            units = torch.ones(len(columns), dtype=torch.bool)
            units[kept] = False
            gone[columns[units].flatten()] = True
    return {name: gone for name, gone in lost.items() if gone.any()}
