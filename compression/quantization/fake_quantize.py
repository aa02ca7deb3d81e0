"""Inserts fake quantization into a model, removes it, and reads its settings back for checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Annotated

from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from compression.models.adapters.network.parts import PassedValue
from compression.models.architectures.pruning_groups import layer_number
from compression.models.linear_layers import is_linear, is_transposed
from compression.quantization.dynamic_int8 import LEVELS, PORTABLE_LEVELS, FakeQuantEmbedding, SimulatedLinear
from compression.quantization.moe_layers import WEIGHTS, fused_expert_modules, insert_experts, remove_experts
from compression.quantization.rounded_network import RoundedValue, SimulatedConv, connect, passed_values
from compression.quantization.static_int8 import Range
from compression.quantization.weight_only import WeightOnlyLinear
from compression.schema.config import Config
from compression.schema.recipe.quantize import Quantize
from compression.schema.schemes import SCHEMES, Scheme

LINEAR: dict[Scheme, type[SimulatedLinear]] = {name: resolve_name(one.linear) for name, one in SCHEMES.items()}
TRANSPOSED = {one: type(f"{one.__name__}Conv1D", (one, Conv1D), {"__doc__": one.__doc__}) for one in set(LINEAR.values())}
"""The same with a transposed weight, as in GPT-2. Nothing else differs."""
REAL: dict[type[nn.Module], type[nn.Module]] = {
    **dict.fromkeys(LINEAR.values(), nn.Linear),
    **dict.fromkeys(TRANSPOSED.values(), Conv1D),
    FakeQuantEmbedding: nn.Embedding,
    SimulatedConv: nn.Conv2d,
}


class Simulation(Config):
    """Settings of a model's fake quantization beside its weights, as a checkpoint stores them."""

    scheme: Scheme = "dynamic-int8"
    group_size: Annotated[int | None, Field(description="Of weight-only-int4 alone.")] = None
    ranges: dict[str, Range] = Field(default_factory=dict, description="Layer, or a network's value → lowest, highest.")
    portable: Annotated[
        bool, Field(description="Weights that meet rounded activations stay within ±63. What was saved without it is ±127.")
    ] = False
    symmetric: Annotated[bool, Field(description="Ranges lie around 0; biases are stored as float32.")] = False
    eight_bits: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    """Linear layers of a model in weight-only-int4 that are in weight-only-int8."""

    @classmethod
    def of(cls, recipe: Quantize) -> "Simulation":
        """Return the recipe's settings, without ranges."""
        return cls(
            scheme=recipe.scheme,
            group_size=recipe.group_size if SCHEMES[recipe.scheme].grouped else None,
            portable=recipe.portable and SCHEMES[recipe.scheme].rounds_activations,
            symmetric=recipe.symmetric,
        )

    def at(self, layer: str) -> "Simulation":
        """Return the settings of a linear layer by its name."""
        return self.model_copy(update={"scheme": EIGHT_BITS, "group_size": None}) if layer in self.eight_bits else self

    @property
    def of_experts(self) -> "Simulation":
        """Settings of fused experts. In static-int8 they use dynamic-int8, because they have no ranges."""
        scheme = SCHEMES[self.scheme].uncalibrated
        return self if scheme is None else self.model_copy(update={"scheme": scheme, "ranges": {}})

    @property
    def levels(self) -> float:
        """Largest integer of the weights of linear layers and experts, except 4-bit weights; of convolutions the least that
        a portable channel's may be (`SimulatedConv.row_levels`).
        """
        return PORTABLE_LEVELS if self.portable and SCHEMES[self.scheme].rounds_activations else LEVELS

    def table_levels(self, *, tied: bool) -> float:
        """Return the largest integer of an embedding table. tied: whether a linear layer also multiplies it."""
        return self.levels if tied and SCHEMES[self.scheme].shares_table else LEVELS


DYNAMIC = Simulation()
EIGHT_BITS: Scheme = "weight-only-int8"
"""Scheme of the layers that have 8 bits among others of 4: activations stay in floating point in both."""


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of all modules whose weights schemes quantize, simulated or not, in model order: linear layers,
    tables, and the convolutions of a network.
    """
    kinds = {nn.Linear, Conv1D, nn.Embedding, *REAL, *([nn.Conv2d] if any(passed_values(model)) else [])}
    for name, module in model.named_modules():
        if type(module) in kinds:
            yield name, module


def ranged_inputs(model: nn.Module, scheme: Scheme) -> dict[str, nn.Module]:
    """Return the modules whose inputs have calibrated ranges in a scheme, by name: linear layers, or values of a network.

    Where linear layers round their own inputs, a network's convolutions have ranges all the same.
    """
    spec = SCHEMES[scheme]
    if any(passed_values(model)):
        among = {name: value for name, value in passed_values(model) if spec.calibrated or value.without_linear}
        return dict(among) if spec.rounds_activations else {}
    return {name: module for name, module in model.named_modules() if is_linear(module)} if spec.calibrated else {}


def left_in_float(model: nn.Module, *, transposed: bool = False) -> int:
    """Count the elements of matrices that are not quantized: the experts' routers, position embeddings of networks; if
    `transposed`, GPT-2's layers too.
    """
    turned = {id(layer.weight) for _, layer in quantizable(model) if not (transposed and is_transposed(layer))}
    turned |= {id(getattr(module, key)) for _, module in fused_expert_modules(model) for key in WEIGHTS}
    return sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in turned)


def remarks(model: nn.Module, scheme: Scheme, parameters: int) -> list[str]:
    """Return what a report says of the parts that a scheme treats otherwise than its name tells. parameters: of the model."""
    found, network = [], any(passed_values(model))
    if left := left_in_float(model):
        those = "constants such as position embeddings" if network else "those of the experts' routers"
        found.append(f"{left:,} of {parameters:,} parameters, {those}, are neither simulated nor shipped as integers.")
    if network and scheme == "dynamic-int8":
        found.append("Convolutions have calibrated ranges, as in static-int8; linear layers round each row by itself.")
    if network and SCHEMES[scheme].grouped:
        found.append("Convolutions have 8-bit weights with one scale per output channel; only linear layers have 4-bit ones.")
    return found


def insert_fake_quantization(
    model: nn.Module, only: Callable[[str], bool] = lambda _name: True, simulation: Simulation = DYNAMIC
) -> list[str]:
    """Simulate integers in the modules whose names `only` accepts and return those names.

    Parameters and keys do not change. The module's class is exchanged in place, because replacing the module would lose ties,
    hooks and optimizers. A layer keeps its range if `simulation` has none for it.
    """
    names = []
    multiplied = {id(module.weight) for module in model.modules() if is_linear(module)}
    ranged = ranged_inputs(model, simulation.scheme)
    for name, value in passed_values(model):
        if only(name):
            value.__class__ = RoundedValue if name in ranged else PassedValue
            names += [name] * (name in ranged)
    if ranged:
        connect(model)
    for name, module in quantizable(model):
        if not only(name):
            continue
        if isinstance(module, nn.Conv2d):
            module.__class__ = SimulatedConv
            _set(module, simulation)
        elif isinstance(module, nn.Embedding):
            module.__class__ = FakeQuantEmbedding
            module.levels = simulation.table_levels(tied=id(module.weight) in multiplied)  # type: ignore[assignment]
        else:
            own = simulation.at(name)
            layer = LINEAR[own.scheme]
            module.__class__ = TRANSPOSED[layer] if isinstance(module, Conv1D) else layer
            _set(module, own)
            if isinstance(module, WeightOnlyLinear):
                module.group_size = own.group_size
        names.append(name)
    for name, module in fused_expert_modules(model):
        if only(name):
            insert_experts(module, simulation.scheme, simulation.group_size, simulation.levels)
            names.append(name)
    set_input_ranges(model, {name: found for name, found in simulation.ranges.items() if name in names})
    return names


def _set(layer: nn.Module, simulation: Simulation) -> None:
    """Give a simulated layer the settings that all layers of a model share."""
    for name in ("scheme", "levels", "symmetric"):
        setattr(layer, name, getattr(simulation, name))


def remove_fake_quantization(model: nn.Module) -> None:
    """Undo `insert_fake_quantization`; ranges stay, for the next insertion."""
    for _, module in quantizable(model):
        module.__class__ = REAL.get(type(module), type(module))
    for _, value in passed_values(model):
        value.__class__ = PassedValue
    for _, module in fused_expert_modules(model):
        remove_experts(module)


@contextmanager
def in_float(model: nn.Module) -> Iterator[None]:
    """Leave the integers of a model out within this context."""
    simulation = simulation_of(model)
    remove_fake_quantization(model)
    try:
        yield
    finally:
        if simulation is not None:
            insert_fake_quantization(model, simulation=simulation)


def simulated_layers(model: nn.Module) -> Iterator[tuple[str, SimulatedLinear | SimulatedConv]]:
    """Yield (name, layer) of every linear layer and convolution with integer weights, in model order."""
    for name, module in model.named_modules():
        if isinstance(module, SimulatedLinear | SimulatedConv):
            yield name, module


def rounding_places(model: nn.Module) -> dict[str, RoundedValue | SimulatedLinear | SimulatedConv]:
    """Return the modules that round their inputs, or whose inputs stay in floating point, of a simulated model in its order.

    Left out are the layers of a network that read what its values have rounded.
    """
    found: dict[str, RoundedValue | SimulatedLinear | SimulatedConv] = dict(simulated_layers(model))
    values = {name: value for name, value in passed_values(model) if isinstance(value, RoundedValue)}
    own = {name: layer for name, layer in found.items() if isinstance(layer, LINEAR["dynamic-int8"])}
    return {**values, **own} if values else found


def layers_in_eight_bits(model: nn.Module) -> tuple[int, ...] | None:
    """Return the numbers of the layers that have 8 bits among others of 4; None if no bits were chosen."""
    simulation = simulation_of(model)
    numbers = {layer_number(name) for name in simulation.eight_bits} if simulation is not None else set()
    return tuple(sorted(number for number in numbers if number is not None)) or None


def is_simulated(model: nn.Module) -> bool:
    """Return whether a model computes with simulated integers."""
    return any(True for _ in simulated_layers(model))


def simulation_of(model: nn.Module) -> Simulation | None:
    """Read the fake quantization settings from a model; return None if it has no fake quantization."""
    every = dict(simulated_layers(model))
    layers = [*every.values()]
    if not layers:
        return None
    grouped = next((layer for layer in layers if isinstance(layer, WeightOnlyLinear) and layer.group_size is not None), None)
    last = grouped or layers[-1]
    ranged = ranged_inputs(model, last.scheme)
    return Simulation(
        scheme=last.scheme,
        group_size=None if grouped is None else grouped.group_size,
        eight_bits=() if grouped is None else tuple(name for name, layer in every.items() if layer.scheme == EIGHT_BITS),
        ranges={name: found for name, found in input_ranges(model).items() if name in ranged},
        portable=last.levels == PORTABLE_LEVELS,
        symmetric=last.symmetric,
    )


def input_ranges(model: nn.Module) -> dict[str, Range]:
    """Return the input ranges of all layers and values, also if they are not simulated. -> module → (lowest, highest)"""
    modules = ((name, module) for name, module in model.named_modules() if hasattr(module, "input_range"))
    return {name: module.input_range for name, module in modules}


def set_input_ranges(model: nn.Module, ranges: Mapping[str, Range]) -> None:
    """Set the input ranges of layers and values by name; fake quantization uses them."""
    for name, found in ranges.items():
        model.get_submodule(name).input_range = found  # type: ignore[assignment]
