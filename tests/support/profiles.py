"""A profile as a device sends it."""

from typing import Any

from compression.schema.profile import Profile

UNKNOWN = {"not_measured": "there is no sensor"}


def measured(request: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a profile of 2 ms a pass that answers a request; `changes` replaces parts of it, also by what is refused."""
    facts = {"machine": "x86_64 Linux", "processor": "a CPU", "cores": 4, "runtimes": {"onnxruntime": "1.32.0"}}
    found = {
        "request": request or {},
        "runtime": "onnxruntime 1.32.0 CPUExecutionProvider",
        "device": {**facts, "sensor": UNKNOWN},
        "load": {"first_ms": 30.0, "warm_ms": 20.0},
        "latency": {"median_ms": 2.0, "p95_ms": 2.5, "samples_ms": [2.0, 2.5, 1.5]},
        "rows_per_second": 500.0,
        "memory": {"min_bytes": 100_000_000, "max_bytes": 120_000_000},
        "layers": [{"name": "/dense", "type": "MatMul", "ms": 1.0}],
        "energy": UNKNOWN,
    }
    return {**Profile.model_validate(found).model_dump(mode="json"), **changes}
