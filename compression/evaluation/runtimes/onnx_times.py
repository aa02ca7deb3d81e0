"""Reads the times of nodes that ONNX Runtime writes for a session with profiling. Torch-free."""

import json
from pathlib import Path

from compression.schema.profile import LayerTime

SUFFIX = "_kernel_time"  #: behind a node's name in the events of its computation


SMALL = ("int64", "bool")
"""What sizes, places and masks are held in, which ONNX Runtime computes on the CPU on purpose, as a model runs on a GPU."""


def computed_by(written: Path, provider: str) -> list[str]:
    """Return the types of operators that a provider computed numbers with, in the order of the alphabet.

    Numbers are outputs that are not SMALL; a single one of them, or a row of them, is as little work as a size.
    """
    found = set()
    for event in json.loads(written.read_text("utf-8")):
        told = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX) and told.get("provider") == provider:
            outputs = [(kind, sizes) for one in told.get("output_type_shape", ()) for kind, sizes in one.items()]
            if any(kind not in SMALL and len(sizes) > 1 for kind, sizes in outputs):
                found.add(told["op_name"])
    return sorted(found)


def providers_in(written: Path) -> set[str]:
    """Return the providers that computed anything."""
    events = (event for event in json.loads(written.read_text("utf-8")) if event.get("cat") == "Node")
    return {event["args"]["provider"] for event in events if event["name"].endswith(SUFFIX)}


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
