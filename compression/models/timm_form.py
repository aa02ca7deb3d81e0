"""Between a network and the model of timm that it came from: which tensor is which, and the model again with other weights.

A trace has timm's tensors turned, sliced or reshaped. All of that is a view, so where a number of the trace comes from is found
by tracing marks: numbers that each occur once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.files.timm_config import TimmModel, timm_model
from compression.models.networks.untrained import by_distance, window_of
from compression.schema.errors import CompressionError, ConfigMismatch, MissingResource, UnsupportedArchitecture
from compression.schema.extras import pip_install

Array = NDArray[Any]
AS_ONNX = "Export the model as ONNX (torch.onnx.export), and send that file."
TOLERANCE = 1e-4
"""Of the logits, relative to the largest."""
ROWS = (1, 3)
FIRST = int(np.float32(1).view(np.int32))
"""The bits of the first mark; those of the next are the next number."""
MOST_MARKS = int(np.finfo(np.float32).max.view(np.int32)) - FIRST


@dataclass(frozen=True)
class Origin:
    """The tensors of a trace as views of timm's. lost: a tensor of timm's that has not each number in one of them.

    views: "node.role" → `of`: timm's name; `shape`, `strides` and `offset` in its numbers. With a `window`, the view is of the
    numbers of the distances between that window's places.
    """

    views: dict[str, dict[str, Any]]
    lost: str | None


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that training changes, float32: all but counted batches."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def marked(model: nn.Module) -> dict[str, Array]:
    """Return marks in the shapes of a model's tensors, by their names; none if it has more numbers than there are marks."""
    found, at = dict[str, Array](), 0
    for name, value in stored(model).items():
        marks = np.arange(FIRST + at, FIRST + at + value.numel(), dtype=np.int64)
        found[name], at = marks.astype(np.int32).view(np.float32).reshape(tuple(value.shape)), at + value.numel()
        if at > MOST_MARKS:
            return {}
    return found


def origin_of(marks: Mapping[str, Array], traced: Mapping[str, Array]) -> Origin:
    """Return where the tensors of a trace of marks come from. traced: "node.role" → its numbers, in part no marks."""
    names, sizes = [*marks], [each.size for each in marks.values()]
    starts, views = np.cumsum([0, *sizes]), dict[str, dict[str, Any]]()
    seen = np.zeros(starts[-1], np.int32)
    for name, values in traced.items():
        numbers = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64).reshape(values.shape) - FIRST
        if not numbers.size or numbers.min() < 0 or numbers.max() >= starts[-1]:
            continue
        place = int(np.searchsorted(starts, numbers.flat[0], "right")) - 1
        window = window_of(numbers)
        numbers = numbers if window is None else by_distance(numbers, window)
        if numbers.max() < starts[place + 1] and (strides := _strides(numbers)) is not None:
            np.add.at(seen, numbers, 1)
            offset = int(numbers.flat[0]) - int(starts[place])
            views[name] = {"of": names[place], "shape": list(numbers.shape), "strides": strides, "offset": offset}
            views[name] |= {} if window is None else {"window": window}
    odd = np.flatnonzero(seen != 1)
    return Origin(views, names[int(np.searchsorted(starts, odd[0], "right")) - 1] if odd.size else None)


def _strides(numbers: NDArray[np.int64]) -> list[int] | None:
    """Return the steps of an array of places along its axes; None if they are not even."""
    found = [
        int(np.take(numbers, 1, axis).flat[0] - numbers.flat[0]) if size > 1 else 0 for axis, size in enumerate(numbers.shape)
    ]
    even = np.full((1,) * numbers.ndim, numbers.flat[0])
    for axis, (size, step) in enumerate(zip(numbers.shape, found, strict=True)):
        even = even + step * np.arange(size).reshape([-1 if one == axis else 1 for one in range(numbers.ndim)])
    return found if np.array_equal(even, numbers) and min(found, default=0) >= 0 else None


def created(found: TimmModel) -> nn.Module:
    """Return timm's model of a config.json, with new weights, float32, in evaluation mode.

    Raises MissingResource, UnsupportedArchitecture and ConfigMismatch.
    """
    try:
        import timm
    except ImportError as problem:
        cause = f"timm, which has the architecture {found.architecture}, cannot be imported: {problem}"
        remedy = f"Ask who runs the workers to add it ({pip_install('vision')}). {AS_ONNX}"
        raise MissingResource(cause, remedy=remedy) from problem
    if not timm.is_model(found.architecture):
        cause = f"timm {timm.__version__} has no architecture {found.architecture!r}"
        raise UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX)
    try:
        model: nn.Module = timm.create_model(found.architecture, pretrained=False, num_classes=found.classes, **found.settings)
    except Exception as problem:  # of any of timm's factories
        cause = f"timm makes no {found.architecture} of these settings: {str(problem)[:300]}"
        raise ConfigMismatch(cause, param="config.json:model_args") from problem
    return model.float().eval()


def lacks_timm_form(config: NetworkConfig) -> str | None:
    """Return why timm has no model of the shape of a network that came from timm; None if it has one."""
    source = config.source or {}
    views, name = source.get("names") or {}, f"timm's {source['config'].get('architecture')}"
    if not views or source.get("lost") is not None:
        return f"A network has {source.get('lost') or 'the weights'} of {name} only combined with other numbers, or twice."
    own = config.network.tensors()
    whole = all(own.get(tensor) == _shape(view) for tensor, view in views.items())
    return None if whole else f"{name} has no model of these widths and blocks."


def _shape(view: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a network's tensor by its view."""
    window, shape = view.get("window"), tuple(view["shape"])
    return shape if window is None else (*shape[:-1], window**2, window**2)


@torch.no_grad()
def timm_form(network: NetworkForImageClassification) -> nn.Module | str:
    """Return a network in floating point as the model of timm that it came from, or why timm has no such model."""
    if (network.config.source or {}).get("library") != "timm":
        return "It is no model of timm."
    if (why := lacks_timm_form(network.config)) is not None:
        return why
    try:
        model = created(timm_model(network.config.source["config"]))
    except CompressionError as problem:
        return str(problem)
    theirs, own = stored(model), network.state_dict()
    for name, view in network.config.source["names"].items():
        target = torch.as_strided(theirs[view["of"]], view["shape"], view["strides"], view["offset"])
        window = view.get("window")
        target.copy_(own[name] if window is None else torch.from_numpy(by_distance(own[name].cpu().numpy(), window)))
    apart = next(differences(network, model), None)
    return model if apart is None else f"timm's answers to random images differ by {apart:.3g}."


@torch.no_grad()
def differences(network: NetworkForImageClassification, model: nn.Module) -> Iterator[float]:
    """Yield by how much a network's answers to random images differ from timm's, where it is too much."""
    draw = torch.Generator().manual_seed(0)
    for rows in ROWS:
        pixels = torch.randn(rows, *network.config.network.shape, generator=draw)
        wanted = model(pixels)
        apart = float((network(pixels).logits - wanted).abs().max())
        if not apart <= TOLERANCE * float(wanted.abs().max()):
            yield apart
