"""Write the JSON schema of before.json to docs/before.schema.json."""

import argparse
import json
from pathlib import Path

from compression.schema.report.before import Before

PLACE = Path(__file__).parents[1] / "docs" / "before.schema.json"


def text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(Before.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m scripts.schema", description=__doc__).parse_args()
    PLACE.write_text(text(), encoding="utf-8")
