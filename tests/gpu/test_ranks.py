"""Two cards train as one, by NCCL."""

import pytest
import torch

from compression.schema.stages import Stage
from compression.training.ranks import Ranks
from tests.compression.training.test_ranks import STAGES_OF, check_same_losses, two  # noqa: F401 (a fixture)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"there are {torch.cuda.device_count()} cards, not two")
@pytest.mark.parametrize("stage", STAGES_OF)
def test_two_cards_have_the_losses_of_one(stage: Stage, two: Ranks) -> None:  # noqa: F811
    check_same_losses(stage, two, "cuda")
