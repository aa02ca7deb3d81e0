"""Translation by an installed Apertium pair, run as a child: rules and dictionaries, no weights. Torch-free."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from compression.errors import MissingResource

REMEDY = "Install Apertium with this pair (Debian: apertium-eng-spa and others), or name translation models, or leave it out."
PATIENCE = 600.0
"""Seconds for one call. A thousand sentences take about two."""


class Apertium:
    """One direction of a pair, for example eng-spa."""

    def __init__(self, direction: str) -> None:
        """Find the program and the direction. Raises MissingResource where one is not installed."""
        self.direction, self.program = direction, shutil.which("apertium") or ""
        if not self.program:
            raise MissingResource("apertium is not installed", param="recipe.distill.augment.back_translation", remedy=REMEDY)
        installed = self._run("-l", text="").split()
        if direction not in installed:
            cause = f"apertium has no {direction}; it has {', '.join(installed) or 'no pair at all'}"
            raise MissingResource(cause, param="recipe.distill.augment.back_translation.apertium", remedy=REMEDY)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translate each text, line breaks made spaces: its line format keeps texts apart that its rules would join."""
        lines = [" ".join(text.split()) for text in texts]
        filled = [i for i, line in enumerate(lines) if line]
        for i, line in zip(filled, self._translated([lines[i] for i in filled]), strict=True):
            lines[i] = line
        return lines

    def _translated(self, lines: list[str]) -> list[str]:
        if not lines:
            return []
        found = self._run("-u", "-n", "-f", "line", self.direction, text="\n".join(lines) + "\n").splitlines()
        if len(lines) == 1:
            return [" ".join(" ".join(found).split())]
        if len(found) == len(lines):
            return [" ".join(line.split()) for line in found]
        # A text in there made more or fewer lines than one: look for it, so that no text gets another's translation.
        half = len(lines) // 2
        return self._translated(lines[:half]) + self._translated(lines[half:])

    def _run(self, *arguments: str, text: str) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            # It is a shell script whose tools take bytes for letters only in such a locale.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            cause = f"apertium {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:].strip()}"
            raise MissingResource(cause, param="recipe.distill.augment.back_translation.apertium", remedy=REMEDY)
        return done.stdout
