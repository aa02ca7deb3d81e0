"""Renders an artifact's model card (README.md): what it is, its figures, and code that opens it. The text is in templates/, or
a package's own folder: `KIND.md.j2` is the card of a format, `KIND/ANSWER.py.j2` the code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from compression.export.comparison_table import comparison
from compression.export.exporter import Exporter, exporter_of
from compression.export.provenance import MOST_FILES, Origin
from compression.modalities.text.scoring.question_answering import overlap_of
from compression.models.architectures import heads
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.before import Figures
from compression.schema.report.measurements import Row, Score, shown
from compression.schema.report.report import Artifact
from compression.schema.schemes import SCHEMES, Scheme
from compression.schema.specs import CardText
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED, STAGES, Stage, wanted
from compression.schema.tasks import TASKS

MOST_NAMES = 20  #: labels that a card names


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything that an artifact's card states."""

    artifact: Artifact
    figures: Figures  #: measured on the artifact's own files
    scheme: Scheme | None  #: its quantization scheme; None is floating point
    task: Task
    labels: tuple[str, ...]
    max_length: int  #: tokens that texts are truncated to, or tokens in a training row of a language model
    inputs: tuple[str, ...]  #: input names of an ONNX file
    pairs: bool = False  #: whether rows have a second text
    positions: int | None = None  #: tokens that a language model can read; None for the other tasks
    as_filed: bool = True  #: whether stock AutoTokenizer tokenizes texts as tokenizer.json does
    origin: Origin | None = None  #: None if no job made it
    rows: Sequence[Row] = ()  #: the job's rows, from the baseline to the artifact's stage; empty: nothing to compare
    portable: bool = False  #: whether weights that multiply rounded activations are within ±63
    symmetric: bool = False  #: whether rounded values are int8 with zero point 0
    lacks_form: str | None = None  #: why the library that the model was sent from has no model of its shape
    zeros: int = 0  #: parameters that fill narrower layers, of which a stock config states one width
    raw: bool = False  #: whether an ONNX file reads rows of 8 bits and does the arithmetic before the model

    def render(self) -> str:
        """Return the card in Markdown."""
        return self._render(f"{exporter_of(self.artifact.kind).card or self._library}.md.j2")

    def usage(self) -> str:
        """Return the code that opens the artifact and predicts with it."""
        return self._render(f"{self._library}/{TASKS[self.task].card.answer}.py.j2")

    @property
    def _library(self) -> str:
        """The library that opens the artifact."""
        return exporter_of(self.artifact.kind).library or self.artifact.kind

    def _render(self, template: str) -> str:
        folder, package = exporter_of(self.artifact.kind).templates, TASKS[self.task].card.templates
        return _templates(folder, package).get_template(template).render(self._context())

    def _context(self) -> dict[str, Any]:
        text, row = TASKS[self.task].card, TASKS[self.task].row
        rounds = self.scheme is not None and SCHEMES[self.scheme].rounds_activations
        artifact, rows = self.artifact, self.rows
        beside = rows if rows and artifact.name != rows[0].artifact else ()
        return {
            **dict(artifact),
            **dict(self.figures),
            **vars(self),
            "about": text.about.format(count=len(self.labels), names=_named(self.labels)),
            "answer": text.answer,
            "path": exporter_of(artifact.kind).path,
            "position": "token" if TASKS[self.task].sequences else "row",
            "auto": heads.of_task(self.task).auto,
            "comparison": comparison(beside, self.figures, artifact, row, self.zeros) if beside else (),
            "library": self._library,
            "is_trained": self.origin is not None and trained(self.origin.recipe, artifact.stage),
            "metadata": self._metadata(text, self.origin) if self.origin is not None else None,
            "most_files": MOST_FILES,
            "needs": exporter_of(artifact.kind).needs,
            "network": heads.of_task(self.task) is heads.IMAGE_CLASSIFIER,
            "rounds": rounds,
            "row": row,
            "saturates": rounds and not self.portable,
            "stride": overlap_of(self.max_length),
            "tokenizer": "AutoTokenizer" if self.as_filed else "PreTrainedTokenizerFast",
        }

    def _metadata(self, text: CardText, origin: Origin) -> dict[str, Any]:
        """Return the metadata that hubs read at the top of a card."""
        tags = ["lathe", self.artifact.stage, *ARTIFACT_FORMATS[self.artifact.kind].tags]
        simulated = exporter_of(self.artifact.kind).is_simulated  # else its integers are of another scheme
        found: dict[str, Any] = {
            "license": origin.license,
            "base_model": origin.base,
            "library_name": self._library,
            "pipeline_tag": text.pipeline,
            "tags": [*tags, "quantized", *([self.scheme] if simulated else [])] if self.scheme else tags,
        }
        score = self.figures.score
        if isinstance(score, Score):
            metrics = {score.metric: score.value, **score.metrics}
            result = {
                "task": {"type": text.pipeline},
                "dataset": {"name": "test split of the job", "type": "custom"},
                "metrics": [{"type": metric, "value": value} for metric, value in metrics.items()],
            }
            found |= {"metrics": list(metrics), "model-index": [{"name": self.artifact.name, "results": [result]}]}
        return {key: value for key, value in found.items() if value is not None}


def _named(labels: Sequence[str]) -> str:
    """Return the first labels, and how many more there are."""
    more = len(labels) - MOST_NAMES
    return ", ".join(labels[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def trained(recipe: Recipe, stage: Stage) -> bool:
    """Return whether a stage up to this one trains the model."""
    quantize, prune = recipe.quantize, recipe.prune
    trains: dict[Stage, bool] = {
        BASELINE: recipe.prepare.trains,
        QUANTIZED: quantize is not None and quantize.qat is not None and quantize.qat.epochs > 0,
        PRUNED: prune is not None and prune.recovery is not None and prune.recovery.epochs > 0,
        DISTILLED: recipe.distill is not None,
    }
    own = [each for each in wanted(dict(recipe)) if STAGES.index(each) <= STAGES.index(stage)]
    return any(trains.get(each, True) for each in own)  # points do, and an installed package's stage may


@cache
def _templates(folder: Path, package: str | None) -> Environment:
    installed = [] if package is None else [PackageLoader(package)]
    found = Environment(  # noqa: S701, no HTML
        loader=ChoiceLoader([FileSystemLoader([folder, Exporter.templates]), *installed]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals["shown"] = shown
    found.filters |= {"json": json.dumps, "thousands": lambda value, digits=0: f"{value:,.{digits}f}"}
    return found
