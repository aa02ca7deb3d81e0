"""The operators of an artifact's graph: in its file, and as its runtime executes them."""

from typing import Annotated

from pydantic import Field, NonNegativeInt

from compression.schema.config import Config

MOST_TYPES = 200
SHOWN = 6  #: types that the short form names


class Operators(Config):
    """How many operators of each type a graph has; constants, inputs and outputs are none."""

    before: Annotated[
        dict[str, NonNegativeInt],
        Field(max_length=MOST_TYPES, description="In the file: what its writer joined already, the file does not have."),
    ]
    after: Annotated[
        dict[str, NonNegativeInt],
        Field(max_length=MOST_TYPES, description="As the runtime executes them on this machine, by its own names."),
    ]

    @property
    def short(self) -> str:
        """Return it as text."""
        totals = f"{sum(self.before.values()):,} in the file, {sum(self.after.values()):,} executed"
        new = sorted((-count, name) for name, count in self.after.items() if name not in self.before)
        if not new:
            return totals
        named = ", ".join(f"{-count} {name}" for count, name in new[:SHOWN]) + (" and others" if len(new) > SHOWN else "")
        return f"{totals}; {named} are the runtime's own"
