"""Training that was stopped on a card and taken up there."""

from pathlib import Path

import torch

from tests.compression.training.conftest import Listener, listener  # noqa: F401 (a fixture)
from tests.compression.training.test_resuming import check


def test_the_random_numbers_of_a_device_go_on_too(tmp_path: Path, listener: Listener) -> None:  # noqa: F811
    """Dropout draws from the device's generator: without its state the weights would differ. Deterministic kernels repeat
    themselves to the bit, so there is no tolerance.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        check("baseline", tmp_path, listener, "cuda")
    finally:
        torch.use_deterministic_algorithms(False)
