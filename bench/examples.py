"""Models by short names, where scripts/fetch_examples.py puts them."""

from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / ".cache" / "examples"
MODELS = {"minilm": "model", "smollm2": "decoder"}
"""Name → folder of the examples: all-MiniLM-L6-v2, and SmolLM2-135M-Instruct in one GGUF file."""


def model_folder(name: str, examples: Path) -> Path:
    """Return a model's folder. name: a short one, or a folder of a model. Raises SystemExit if it is not there."""
    if name not in MODELS:
        if not (Path(name) / "config.json").is_file():
            raise SystemExit(f"{name} is neither of {', '.join(MODELS)} nor a folder of a model with its config.json")
        return Path(name).resolve()
    folder = (examples / MODELS[name]).resolve()
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: run scripts/fetch_examples.py {examples} {MODELS[name]}")
    return folder
