"""Check a timm model: its files as they are, and its network as timm's own code makes it, which only workers with timm can.

This module loads no torch; the process of a check does, once the files are found to be in order.
"""

from pathlib import Path
from pkgutil import resolve_name

from compression.models.files import safetensors_header
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.files.timm_config import FILE, read_timm
from compression.models.validation.network import facts_of
from compression.schema.errors import CompressionError, ConfigMismatch
from compression.schema.validation import ModelFacts

READER = "compression.models.timm_unpack:network_in"
"""What returns the network of a folder's model."""


def check_timm(folder: Path) -> ModelFacts | list[CompressionError]:
    """Return the facts of a folder's timm model, or every reason to refuse it."""
    tensors, problems = safetensors_header.read_weights(folder)
    problems += safetensors_header.not_finite(folder, tensors) if tensors and not problems else []
    for read in (read_timm, ImagePreprocessing.read):
        try:
            read(folder)
        except CompressionError as problem:
            problems.append(problem)
    if problems:
        return problems
    found = read_timm(folder)
    try:
        graph, constants = resolve_name(READER)(folder)
        facts = facts_of(graph, found.architecture, found.labels, 0, constants)
    except CompressionError as problem:
        return [problem]
    if facts.network is not None and facts.network.outputs != found.classes:
        return [ConfigMismatch(f"num_classes is {found.classes}, and the network has {facts.network.outputs}", param=FILE)]
    sent = safetensors_header.stored(folder)
    return facts.model_copy(update={"bytes": sent.bytes, "dtype": sent.dtype})
