"""Turn an image classifier of timm into a network's folder: timm's own code is traced, and the trace read as an ONNX file is.

timm comes with the extra `vision`. Only its own architectures are made, by name; nothing is fetched.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxscript.optimizer
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compression.models.adapters.network.module import NetworkForImageClassification
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.files.safetensors_header import SINGLE
from compression.models.files.timm_config import TimmModel, read_timm
from compression.models.network_folder import network_of, write_network
from compression.models.networks.onnx_reader import read_onnx
from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, MissingFile, MissingResource, UnsupportedArchitecture

TOLERANCE = 1e-4
"""Of the logits, relative to the largest."""
ROWS = (1, 3)
AS_ONNX = "Export the model as ONNX (torch.onnx.export), and send that file."
TRACE = "network.onnx"


def unpack(folder: Path, place: Path, labels: Sequence[str] = ()) -> None:
    """Write a timm model's folder as a network's, `place`. Outputs without names have those of the data's labels, if as many.

    Raises MissingResource without timm, ConfigMismatch, DamagedCheckpoint, and UnsupportedArchitecture or UnsupportedOperator
    for a model that is no network of Lathe's operators.
    """
    found, size = read_timm(folder), ImagePreprocessing.read(folder).size
    model = opened(folder, found)
    with tempfile.TemporaryDirectory() as passage:
        graph, tensors = read_onnx(traced(model, size, Path(passage) / TRACE))
    names = found.labels or (tuple(labels) if len(labels) == found.classes else None)
    try:
        network = network_of(graph, tensors, {"library": "timm", "config": dict(found.config), "names": {}}, names)
    except ValueError as problem:
        raise _unsupported(found, str(problem)) from problem
    _compare(network, model, found)
    write_network(network, place, folder)


def write_trace(folder: Path, path: Path) -> Path:
    """Write a timm model's folder as an ONNX file, for a check that opens no model. Raises what `unpack` raises."""
    size = ImagePreprocessing.read(folder).size
    return traced(opened(folder, read_timm(folder)), size, path)


def opened(folder: Path, found: TimmModel) -> nn.Module:
    """Return the model of a folder, float32, in evaluation mode."""
    try:
        import timm
    except ImportError as problem:
        cause = f"timm, which has the architecture {found.architecture}, cannot be imported: {problem}"
        raise MissingResource(cause, remedy=f"Ask who runs the workers to install the extra vision. {AS_ONNX}") from problem
    if not timm.is_model(found.architecture):
        cause = f"timm {timm.__version__} has no architecture {found.architecture!r}"
        raise UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX)
    if not (folder / SINGLE).is_file():
        raise MissingFile(f"the model has no {SINGLE}", param=SINGLE)
    try:
        model: nn.Module = timm.create_model(found.architecture, pretrained=False, num_classes=found.classes, **found.settings)
    except Exception as problem:  # of any of timm's factories
        cause = f"timm makes no {found.architecture} of these settings: {str(problem)[:300]}"
        raise ConfigMismatch(cause, param="config.json:model_args") from problem
    try:
        model.load_state_dict(load_file(folder / SINGLE))
    except SafetensorError as problem:
        raise DamagedCheckpoint(f"{SINGLE}: {problem}", param=SINGLE) from problem
    except RuntimeError as problem:
        cause = f"the weights are not those of timm's {found.architecture}: {str(problem)[:500]}"
        raise ConfigMismatch(cause, param=SINGLE) from problem
    return model.float().eval()


@torch.no_grad()
def traced(model: nn.Module, size: tuple[int, int], path: Path) -> Path:
    """Write a model's trace as an ONNX file whose rows are free. Its batch normalizations stay: training needs them."""
    rows = torch.zeros(2, 3, *size)
    try:
        program: Any = torch.onnx.export(
            model,
            (rows,),
            None,
            dynamo=True,
            verbose=False,
            optimize=False,  # it would fold the normalizations into the convolutions
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["pixel_values"],
            output_names=["logits"],
            external_data=False,
        )
    except Exception as problem:  # the exporter's, and any of the model's own code
        cause = f"the model cannot be traced for images of {size[0]} × {size[1]}: {str(problem)[:300]}"
        raise UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX) from problem
    onnxscript.optimizer.inline(program.model)
    onnxscript.optimizer.fold_constants(program.model, onnx_shape_inference=True)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    program.save(path)
    return path


@torch.no_grad()
def _compare(network: NetworkForImageClassification, model: nn.Module, found: TimmModel) -> None:
    """Compare a network's answers to random images with timm's own. Raises UnsupportedArchitecture."""
    draw = torch.Generator().manual_seed(0)
    for rows in ROWS:
        pixels = torch.randn(rows, *network.config.network.shape, generator=draw)
        wanted = model(pixels)
        apart = float((network(pixels).logits - wanted).abs().max())
        if not apart <= TOLERANCE * float(wanted.abs().max()):
            raise _unsupported(found, f"Lathe's answers to {rows} random images differ by {apart:.3g}")


def _unsupported(found: TimmModel, why: str) -> UnsupportedArchitecture:
    cause = f"timm's {found.architecture} does not become a network: {why[:500]}"
    return UnsupportedArchitecture(cause, param="config.json:architecture", remedy=AS_ONNX)
