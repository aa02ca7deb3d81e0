"""The examples of a page of the docs, as one script that runs them as they are printed, one after the other in one folder."""

import re
import sys
from pathlib import Path

Block = tuple[str, str]
"""Language and text of an example."""


def blocks_of(page: str) -> list[Block]:
    return re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL)


def as_script(blocks: list[Block], folder: Path) -> str:
    """Write the Python examples to files; return one script of all examples, so that variables go from block to block."""
    script = ["set -eo pipefail"]
    for number, (language, block) in enumerate(blocks):
        if language == "python":
            (folder / f"example{number}.py").write_text(block, encoding="utf-8")
            script.append(f"echo '--- example{number}.py'\n{sys.executable} example{number}.py")
        else:
            script.append(block)
    return "\n".join(script)
