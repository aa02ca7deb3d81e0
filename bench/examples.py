"""Models by short names, where scripts/fetch_examples.py puts them."""

from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / ".cache" / "examples"
MODELS = {"minilm": "model", "smollm2": "decoder"}
"""Name → folder of the examples: all-MiniLM-L6-v2, and SmolLM2-135M-Instruct in one GGUF file."""


def model_folder(name: str, examples: Path) -> Path:
    """Return a model's folder. Raises SystemExit if it was not fetched."""
    folder = (examples / MODELS[name]).resolve()
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: run scripts/fetch_examples.py {examples} {MODELS[name]}")
    return folder
