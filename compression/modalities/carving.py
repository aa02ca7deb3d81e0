"""Chooses the rows of train that become a missing validation or test. Torch-free."""

import random
from collections.abc import Collection, Sequence

from compression.schema.errors import EmptySplit
from compression.schema.recipe.base import Split

CARVED_SHARE: dict[Split, float] = {"test": 0.20, "validation": 0.10}
"""Shares to carve from train, each of train as the user submitted it."""
FILL_TRAIN = "Add rows to train; a validation or test that is not sent is carved from it."
"""Remedy where train has too few rows."""


def carved_rows(strata: Sequence[str], given: Collection[Split], seed: int, fewest: int = 1) -> dict[Split, list[int]]:
    """Divide the rows of train among itself and the missing splits, drawn with `seed`: the same share of each stratum.

    strata: of each row, such as its label; one row of each stays in train. given: the splits that are not carved; fewest: rows
    of a carved split. -> sorted indices of train, by split. Raises EmptySplit if train is too small.
    """
    parts: dict[Split, list[int]] = {"train": [], **{name: [] for name in CARVED_SHARE if name not in given}}
    draw, members = random.Random(seed), dict[str, list[int]]()
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    for _, positions in sorted(members.items()):
        draw.shuffle(positions)
        whole = len(positions)
        for name in (name for name in CARVED_SHARE if name in parts):
            count = min(max(round(whole * CARVED_SHARE[name]), fewest), len(positions) - 1)
            parts[name] += positions[:count]
            positions = positions[count:]
        parts["train"] += positions
    for name, rows in sorted(parts.items(), reverse=True):  # validation before test
        if len(rows) < (1 if name == "train" else fewest):
            cause = f"train has {len(strata)} {'row' if len(strata) == 1 else 'rows'}: too few to carve {name} from"
            raise EmptySplit(cause, param=f"data.splits.{name}", remedy=FILL_TRAIN)
    return {name: sorted(rows) for name, rows in parts.items()}
