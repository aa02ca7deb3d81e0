"""Runs the toy package's job in its environment: stops after the package's stage, goes on, and writes what happened.

Artifacts are measured in this process. The service's job measures them in fresh ones (tests/test_toy_package.py).
"""

import contextlib
import json
import sys
from pathlib import Path

from compression.engine import shipping
from compression.engine.checkpoints import fingerprint_facts
from compression.engine.pipeline import compress
from compression.schema.events import StageFinished, StageStarted
from compression.schema.job_spec import Spec
from compression.system.interrupts import Pause
from tests.support.measuring import briefly


def main(place: Path) -> None:
    """Run place/spec.json in two attempts; the second measures in fresh processes, as every job does."""
    spec = Spec.model_validate_json((place / "spec.json").read_bytes())
    first: list[str] = []
    shipping.measure_artifact = briefly

    def is_reached() -> bool:
        return "rounded" in first

    apart, shipping.measure_artifact = shipping.measure_artifact, briefly
    with contextlib.suppress(Pause):
        for event in compress(spec, place, is_reached):
            first += [event.row.stage] if isinstance(event, StageFinished) else []
    shipping.measure_artifact = apart
    again = spec.model_copy(update={"output": "again", "resume": f"{spec.output}/checkpoints"})
    started = [event for event in compress(again, place) if isinstance(event, StageStarted)]
    facts = {stage: found.get("round_small") for stage, found in fingerprint_facts(spec, place).items()}
    found = {"first": first, "resumed": {event.stage: event.resumed for event in started}, "inputs": facts}
    (place / "told.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
