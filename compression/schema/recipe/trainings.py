"""The trainings of a recipe that may have no epochs, and what then has no effect. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compression.schema.config import Config
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.prune import Recovery
from compression.schema.recipe.quantize import Qat
from compression.schema.recipe.recipe import Prepare, Recipe


@dataclass(frozen=True)
class Training:
    """The settings of a training that a recipe may set to no epochs."""

    path: tuple[str, ...]  #: of keys from the recipe to the settings
    settings: type[Config]
    epochs: tuple[str, ...]  #: the keys whose sum is its epochs

    def is_off(self, given: Mapping[str, Any]) -> bool:
        """Return whether settings, of which keys may be missing, have no epochs."""
        return all(given.get(key, self.settings.model_fields[key].default) == 0 for key in self.epochs)


TRAININGS = (
    Training(("prepare",), Prepare, ("epochs",)),
    Training(("quantize", "qat"), Qat, ("full", "ramp", "quantized")),
    Training(("prune", "recovery"), Recovery, ("epochs",)),
)


def check_effective(recipe: Recipe) -> None:
    """Refuse settings of a training without epochs, which nothing would read. Raises InvalidSpec.

    A key that has its default says nothing. Stored recipes that have such keys still load.
    """
    for training, given in _without_epochs(recipe.model_dump()):
        defaults = {name: field.default for name, field in training.settings.model_fields.items()}
        unread = [key for key in given if key not in training.epochs and given[key] != defaults[key]]
        if unread:
            place, zero = ".".join(training.path), ", ".join(f"{key}: 0" for key in training.epochs)
            cause = f"nothing reads {', '.join(unread)} of {place}, which has no epochs ({zero})"
            remedy = f"Leave {'it' if len(unread) == 1 else 'them'} out, or give {place} epochs."
            raise InvalidSpec(cause, param=f"recipe.{place}.{unread[0]}", remedy=remedy)


def drop_ineffective(recipe: Mapping[str, Any], named: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a recipe as JSON without settings of trainings that have no epochs. named: the keys that stay all the same."""
    found = dict(recipe)
    for training, given in _without_epochs(recipe):
        asked = _at(named or {}, training.path) or {}
        kept = {key: value for key, value in given.items() if key in (*training.epochs, *asked)}
        found = _replaced(found, training.path, kept)
    return found


def _replaced(recipe: Mapping[str, Any], path: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with other settings at a path that it has; what is elsewhere, however deep, is not walked through."""
    first, *rest = path
    return {**recipe, first: _replaced(recipe[first], tuple(rest), settings) if rest else settings}


def _without_epochs(recipe: Mapping[str, Any]) -> Iterator[tuple[Training, dict[str, Any]]]:
    """Yield the trainings that a recipe turns off, with their settings in it."""
    for training in TRAININGS:
        given = _at(recipe, training.path)
        if given is not None and training.is_off(given):
            yield training, given


def _at(recipe: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the settings at a path of keys; None if there are none, whatever is there instead."""
    found: Any = recipe
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else None
