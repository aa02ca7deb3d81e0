"""A router that chooses in no way that stock code knows is refused when it comes in, and not by a job's first forward."""

from pathlib import Path

import pytest
import torch

from tests.compression.models.validation.test_decoders import reasons, upload


def test_a_way_to_choose_that_stock_code_cannot_run_is_refused(tmp_path: Path) -> None:
    model = upload(tmp_path, "deepseek_v2", topk_method="noaux_tc")
    with pytest.raises(UnboundLocalError):
        model(torch.arange(3, 9)[None])
    assert list(reasons(tmp_path)) == ["unsupported_architecture"]
