"""Turns a prediction request into a row: its own image, or one of the data. Torch-free."""

from contextlib import closing
from pathlib import Path
from typing import Any

from compression.modalities.image.locations import ImageOpener
from compression.modalities.image.scoring.reader import decode_asked
from compression.modalities.image.sources import list_split
from compression.modalities.image.thumbnails import thumbnail
from compression.modalities.scoring.base import Row
from compression.schema.errors import EmptySplit
from compression.schema.prediction_request import AnswerSpec


def row_of(spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
    """Return the scorer's row, the row for people, and the expected label. Raises UnreadableData, EmptySplit, and the errors
    of reading the data.
    """
    request = spec.question
    if spec.data is None or request.row is None:
        given = request.image or ""
        image = decode_asked(given)
        about = {"image": f"{image.width} × {image.height} pixels", "picture": thumbnail(image)}
        return {"data": given}, about, None
    listing = list_split(spec.data, request.split, base)
    if request.row >= len(listing.places):
        cause = f"{request.split} has no row {request.row}"
        raise EmptySplit(cause, param="row", remedy="Name a row that there is, from 0.")
    place = listing.places[request.row]
    with closing(ImageOpener(base.absolute())) as opener:
        # Asked by its number in the split, from 0: messages on files count from 1.
        name = place.name(base.absolute()) if place.number is None else f"row {request.row} of {request.split}"
        about = {"image": name, "picture": thumbnail(opener.open(place))}
    return place.judged(0), about, listing.labels[request.row]
