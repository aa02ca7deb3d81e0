"""Tests of a real card: `make test-gpu` runs them alone, with any Python that has torch and the engine's libraries.

Nothing of the service is needed, so this folder is run without the tests' own conftest.py (`--confcutdir`).
"""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=f"torch {torch.__version__} sees no CUDA device"))


@pytest.fixture
def card() -> torch.device:
    return torch.device("cuda")
