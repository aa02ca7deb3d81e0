"""Compares a quantized checkpoint on disk with its source, a few rows at a time.

A model that does not fit in memory cannot be verified by its logits (`verify`). Its files are compared instead: every integer,
multiplied by its scale, with the weight that it represents.
"""

from collections.abc import Generator
from math import prod
from pathlib import Path

from compression.export.transformers.sharded import Streamed, plan_of
from compression.models.sharded_checkpoint import BLOCK, SafetensorsReader
from compression.models.skeleton import skeleton
from compression.schema.errors import ExportMismatch
from compression.schema.schemes import StreamedScheme

HALF = 0.501  #: largest change of a weight, in scales: half a step from rounding, plus the error of float32


def verifying(
    source: Path, place: Path, *, scheme: StreamedScheme, group_size: int = 32, portable: bool = False, block: int = BLOCK
) -> Generator[tuple[int, int], None, None]:
    """Compare the checkpoint in `place` with its source, from which `sharded.quantizing` wrote it. Raises ExportMismatch.

    The config must imply exactly the tensors in the files. Each dequantized weight must be within half a step of its source,
    and every other value must equal it. Yields (elements compared, total elements) after each tensor.
    """
    before, after = SafetensorsReader(source), SafetensorsReader(place)
    tensors, _ = plan_of(skeleton(source), before, scheme, group_size, portable=portable)
    names = {part.name for tensor in tensors for part in tensor.planned(before.dtype(tensor.sources[0]))[0]}
    if {tensor.name for tensor in tensors} != set(skeleton(place).state_dict()) or names != set(after.names()):
        raise ExportMismatch("the quantized checkpoint does not have the tensors that its config.json implies")
    total, done = sum(prod(tensor.shape) for tensor in tensors), 0
    for tensor in tensors:
        _compare(tensor, before, after, block)
        done += prod(tensor.shape)
        yield done, total


def _compare(tensor: Streamed, before: SafetensorsReader, after: SafetensorsReader, block: int) -> None:
    parts = {part.name.rpartition("_")[2]: part.name for part in tensor.planned(before.dtype(tensor.sources[0]))[0]}
    line = 0
    for source in tensor.sources:
        for rows in before.rows(source, block) if len(tensor.shape) > 1 else [before.tensor(source)]:
            count = prod(rows.shape[:-1])
            if "qdata" in parts:
                found, scale = (after.lines(parts[part], line, line + count) for part in ("qdata", "scale"))
                scale = scale.repeat_interleave(rows.shape[-1] // scale.shape[-1], dim=1)
                same = bool(((found.float() * scale - rows.float()).abs() <= HALF * scale).all())
            else:
                name = next(iter(parts.values()))
                found = after.lines(name, line, line + count) if len(tensor.shape) > 1 else after.tensor(name)
                same = found.equal(rows.to(found.dtype).view(found.shape))
            if not same:
                raise ExportMismatch(f"{tensor.name} is not what was written of it")
            line += count
