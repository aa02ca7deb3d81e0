"""Tracing in tests, which trace far more shapes in one process than a job does."""

import functools

from torch.onnx._internal.exporter._registration import ONNXRegistry

from compression.export.onnx import trace


def keep() -> None:
    """Keep what was traced: shapes recur from test to test, and tracing one takes longer than most of a tiny job."""
    trace.MOST = 100
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # a fifth of each tracing
