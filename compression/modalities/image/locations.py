"""Where images are: a file, or a row of a Parquet column or of an array. Torch-free."""

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from compression.modalities.image.arrays import ArrayImages
from compression.modalities.image.decoding import as_rgb, decode
from compression.modalities.image.parquet import ParquetImages

ZIP = b"PK"
LONGEST_PATH = 200  #: in messages


class Location(NamedTuple):
    """Where an image is."""

    file: str  #: an absolute path
    number: int | None = None  #: row in the file, from 0; None: the file is the image
    column: str | None = None  #: of Parquet, or the name of an array

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Location":
        """Return the location of a row of the measuring process."""
        return cls(row["image"], row.get("index"), row.get("column"))

    def judged(self, label: int) -> dict[str, Any]:
        """Return the row of the measuring process. label: the id of its label."""
        place = {} if self.number is None else {"index": self.number, "column": self.column}
        return {"image": self.file, **place, "label": label}

    def name(self, base: Path) -> str:
        """Return the image's name in messages. base: the folder that paths are shown from."""
        path = Path(self.file)
        shown = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        return shown if self.number is None else f"row {self.number + 1} of {shown}"


class ImageOpener:
    """Opens images; of a file with many, it stays open, and rows are best read in ascending order."""

    def __init__(self, base: Path) -> None:
        """base: the folder that messages show paths from."""
        self._base = base
        self._file: tuple[str, str | None] | None = None
        self._images: ParquetImages | ArrayImages | None = None

    def open(self, where: Location) -> Image.Image:
        """Decode an image to RGB of 8 bits. Raises UnreadableData."""
        name = where.name(self._base)
        if where.number is None:
            return decode(Path(where.file), name)
        rows = self._rows(where)
        if isinstance(rows, ParquetImages):
            data = rows.at(where.number)
            path = rows.stored_path(where.number)[:LONGEST_PATH]
            return decode(data, f"{path} ({name})" if path else name)
        found = rows.at(where.number)
        return as_rgb(Image.fromarray(found[..., 0] if found.ndim == 3 and found.shape[2] == 1 else found), name)

    def _rows(self, where: Location) -> ParquetImages | ArrayImages:
        if self._images is None or self._file != (where.file, where.column):
            self.close()
            path = Path(where.file)
            with path.open("rb") as stream:
                packed = stream.read(len(ZIP)) == ZIP
            self._images = (ArrayImages if packed else ParquetImages)(path, str(where.column))
            self._file = where.file, where.column
        return self._images

    def close(self) -> None:
        """Close the file with many images."""
        if self._images is not None:
            self._images.close()
            self._images = None
