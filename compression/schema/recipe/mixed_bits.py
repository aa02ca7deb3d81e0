"""What a recipe must have for a search to choose the bits of layers (`prune.mixed_bits`)."""

from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.schemes import SCHEMES

KEY = "prune.mixed_bits"


def hindrance(quantize: Quantize | None, prune: Prune | None) -> tuple[str, str] | None:
    """Return the key of a recipe that stands in the way of its choice of bits, and why; None if nothing does."""
    if prune is None or not prune.mixed_bits:
        return None
    if quantize is None or not SCHEMES[quantize.assumed].grouped:
        scheme = "there is no scheme" if quantize is None else f"the scheme is {quantize.scheme}"
        return KEY, f"layers have 8 bits among others of 4, and {scheme}: set quantize.scheme to weight-only-int4"
    if prune.search is None or prune.target_bytes is None:
        return KEY, "bits are chosen by a search within bytes: set prune.search, and prune.target_bytes"
    if prune.free_widths or prune.points > 1:
        other = "free_widths" if prune.free_widths else "points"
        return KEY, f"bits are chosen for one shape of all layers: leave out prune.{other}"
    return None
