"""`python -m compression rank`: does its part of each training of a job on several devices, as a child of the engine."""

from pathlib import Path

from compression.training.ranks import RankSpec, serve


def main(path: Path) -> int:
    """Serve until the engine ends; return the exit code."""
    return serve(RankSpec.model_validate_json(path.read_text("utf-8")))
