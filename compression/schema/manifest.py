"""The manifest of an artifact: its files, and what it reads and answers. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.report.report import File

MANIFEST = "manifest.json"
BATCH, LENGTH, HEIGHT, WIDTH = "batch", "sequence", "height", "width"
"""Names of axes: rows of a pass, tokens of a row, and the sides of an image."""


class Tensor(Config):
    """One input or output."""

    name: str
    dtype: Annotated[str, Field(description="As NumPy names it, for example int64.")]
    axes: Annotated[tuple[str, ...], Field(description="Names of the dimensions. Axes of one name have one size.")]
    shape: Annotated[tuple[int | None, ...], Field(description="Sizes of the axes; null where any size is taken.")]


class InputTensor(Tensor):
    """One input, with the values that it may have. null: not known."""

    low: Annotated[float | None, Field(description="Smallest value.")] = None
    high: Annotated[float | None, Field(description="Largest value.")] = None
    usual: Annotated[float | None, Field(description="Value of all elements in rows without padding.")] = None


class Interface(Config):
    """What an artifact reads and answers. The reopened artifact answered at each of the sizes `tested`."""

    inputs: tuple[InputTensor, ...]
    outputs: Annotated[tuple[Tensor, ...], Field(description="Of a file that declares them; else empty.")] = ()
    largest: Annotated[dict[str, int], Field(description="Largest sizes of axes without a size of their own.")]
    tested: Annotated[tuple[dict[str, int], ...], Field(description="Sizes by axis: smallest, typical and largest.")]


class Manifest(Config):
    """The contents of manifest.json."""

    kind: Annotated[str | None, Field(description="The artifact's format; null in older manifests.")] = None
    files: tuple[File, ...]
    interface: Annotated[Interface | None, Field(description="null in older manifests, and of files never opened here.")] = None
