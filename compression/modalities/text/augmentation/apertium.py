"""Translates with an installed Apertium pair in a child process: rules and dictionaries, no weights. Torch-free."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from compression.schema.errors import MissingResource

REMEDY = "Install Apertium with this pair (Debian: apertium-eng-spa and others), or name translation models, or leave it out."
RESERVED, ESCAPED = re.compile(r"([\\\[\]{}^$/@<>])"), re.compile(r"\\(.)", re.DOTALL)
"""Reserved characters of Apertium's stream, and their escaped form."""
END = "[][\n]"  #: the end of a sentence without a full stop, so that none is needed and an existing one stays
PATIENCE = 600.0  #: timeout of one call in seconds. A thousand sentences take less than ten.


class Apertium:
    """Translates in one direction of a pair, for example eng-spa."""

    def __init__(self, direction: str) -> None:
        """Find the program and the direction. Raises MissingResource if one is not installed."""
        self.direction, self.program = direction, shutil.which("apertium") or ""
        if not self.program:
            raise MissingResource("apertium is not installed", param="recipe.distill.augment.back_translation", remedy=REMEDY)
        installed = self._run("-l", text="").split()
        if direction not in installed:
            cause = f"apertium has no {direction}; it has {', '.join(installed) or 'no pair at all'}"
            raise MissingResource(cause, param="recipe.distill.augment.back_translation.apertium", remedy=REMEDY)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translate each text on its own; line breaks become spaces, and an empty text stays empty."""
        lines = [" ".join(text.replace("\0", " ").split()) for text in texts]
        filled = [i for i, line in enumerate(lines) if line]
        for i, line in zip(filled, self._translated([lines[i] for i in filled]), strict=True):
            lines[i] = line
        return lines

    def _translated(self, lines: list[str]) -> list[str]:
        if not lines:
            return []
        # In Apertium's own stream format, in which a NUL resets every tool. Its line format does not separate texts: "good"
        # above "film" becomes "película" above "buena".
        stream = "".join(RESERVED.sub(r"\\\1", line) + END + "\0" for line in lines)
        found = self._run("-z", "-u", "-f", "none", self.direction, text=stream).split("\0")[: len(lines)]
        if len(found) == len(lines) and all(line.endswith(END) for line in found):
            return [" ".join(ESCAPED.sub(r"\1", line.removesuffix(END)).split()) for line in found]
        if len(lines) == 1:  # Apertium cannot process this text, so it has no translation
            return lines
        half = len(lines) // 2
        return self._translated(lines[:half]) + self._translated(lines[half:])

    def _run(self, *arguments: str, text: str) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            # It is a shell script whose tools decode UTF-8 only in such a locale.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            cause = f"apertium {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:].strip()}"
            raise MissingResource(cause, param="recipe.distill.augment.back_translation.apertium", remedy=REMEDY)
        return done.stdout
