"""Makes rows for an artifact from what its manifest says of its inputs. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.modalities.scoring.base import Floats, Runner
from compression.modalities.text.decoding import Decoder
from compression.schema.manifest import BATCH, LENGTH, InputTensor, Interface


@dataclass(frozen=True)
class MadeInputs:
    """A batch of random rows without padding."""

    arrays: dict[str, npt.NDArray[Any]]  #: by input name
    shape: tuple[int, int]  #: number of rows, and of positions of each; 0 if they have none

    @property
    def input_ids(self) -> npt.NDArray[Any]:
        """Return the token ids, for a language model's step. Raises KeyError if there are none."""
        return self.arrays["input_ids"]

    def real(self, logits: Floats) -> Floats:
        """Return all logits: nothing is padded."""
        return logits


def made_inputs(interface: Interface, sizes: Mapping[str, int], *, seed: int = 0) -> MadeInputs:
    """Return random rows of given sizes, by axis. Inputs with other free axes, as a cache has, are left to the runtime."""
    draw = np.random.default_rng(seed)
    known = [
        one for one in interface.inputs if all(axis in sizes or size for axis, size in zip(one.axes, one.shape, strict=True))
    ]
    arrays = {one.name: _values(one, sizes, draw) for one in known}
    return MadeInputs(arrays, (sizes[BATCH], sizes.get(LENGTH, 0)))


def pass_over(runner: Runner[Any], inputs: MadeInputs) -> Floats:
    """Return the logits of one pass over rows, which a language model takes as prompts."""
    if isinstance(runner, Decoder):
        return runner.step(inputs.input_ids)[0]
    return runner.logits(inputs)


def _values(wanted: InputTensor, sizes: Mapping[str, int], draw: np.random.Generator) -> npt.NDArray[Any]:
    """Return values of the input's range; where it is not known, integers are 0 and other numbers normally distributed."""
    shape = [size or sizes[axis] for axis, size in zip(wanted.axes, wanted.shape, strict=True)]
    dtype = np.dtype(wanted.dtype)
    if wanted.usual is not None:
        return np.full(shape, wanted.usual, dtype)
    if np.issubdtype(dtype, np.floating):
        if wanted.low is None or wanted.high is None:
            return draw.standard_normal(shape).astype(dtype)
        return draw.uniform(wanted.low, wanted.high, shape).astype(dtype)
    return draw.integers(int(wanted.low or 0), int(wanted.high or 0), shape, dtype, endpoint=True)
