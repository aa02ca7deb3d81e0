"""Tracing in tests, which trace far more shapes in one process than a job does."""

import functools

import torch._dynamo.config
import torch._export.utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.onnx._internal.exporter._registration import ONNXRegistry

from compression.export.onnx import trace


def keep() -> None:
    """Keep what was traced: shapes recur from test to test, and tracing one takes longer than most of a tiny job."""
    trace.MOST = 100
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # a fifth of each tracing
    # With free dimensions a hit costs more than computing an operator's shape anew: a tenth of each tracing.
    torch._dynamo.config.fake_tensor_cache_enabled = FakeTensorMode.cache_enabled = False
    torch._export.utils._materialize_cpp_cia_ops = functools.cache(torch._export.utils._materialize_cpp_cia_ops)
