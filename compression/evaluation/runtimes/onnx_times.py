"""Reads the times of nodes that ONNX Runtime writes for a session with profiling. Torch-free."""

import json
from pathlib import Path

from compression.schema.profile import LayerTime

SUFFIX = "_kernel_time"  #: behind a node's name in the events of its computation


def node_times(written: Path, passes: int) -> list[LayerTime]:
    """Return each node's mean milliseconds in a pass, in the order of computation.

    written: of `passes` passes and one before them, which is left out: it allocates memory. A node of a loop counts as often as
    it runs.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for event in json.loads(written.read_text("utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            told = event["args"]
            key = (event["name"].removesuffix(SUFFIX), told["op_name"], told.get("node_index", ""))
            found.setdefault(key, []).append(event["dur"] / 1000)
    return [
        LayerTime(name=name[:500], type=kind[:200], ms=sum(times[len(times) // (passes + 1) :]) / passes)
        for (name, kind, _), times in found.items()
    ]
