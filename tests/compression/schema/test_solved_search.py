"""What other targets are answered from is sent by engines: it is read within bounds."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from compression.schema.solved_search import SolvedSearch

SHAPE = {"layers": 2, "hidden": 64, "heads": 2, "ffn": 128, "vocabulary": 100}
FACTS: dict[str, Any] = {"digest": "0" * 64, "family": "bert", "before": SHAPE, "whole": SHAPE, "prune": {}, "error": 0.5}


@pytest.mark.parametrize("weight", [0.0, -1.0, 2e6, math.nan, math.inf])
def test_an_error_counts_a_positive_share(weight: float) -> None:
    SolvedSearch.model_validate({**FACTS, "weights": {"ffn.0": 0.5}})
    with pytest.raises(ValidationError, match=r"weights\.`ffn\.0`"):
        SolvedSearch.model_validate({**FACTS, "weights": {"ffn.0": weight}})
