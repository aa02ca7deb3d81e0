"""A dataset of a job as the job's model reads it: read, encoded, sampled for scoring. Shared by both backends."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PretrainedConfig

from compression.engine.shipping import RunSettings
from compression.export.provenance import Origin
from compression.modalities.base import TaskAdapter
from compression.modalities.modality import Dataset, Modality, Preprocessor
from compression.modalities.registry import modality_of
from compression.modalities.scoring.base import Row
from compression.models.adapters.registry import adapter_of
from compression.planning.preflight import check_task, evaluation_settings
from compression.schema.job_spec import DatasetSpec, Spec
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.samples import MOST_SAMPLES, Sample
from compression.schema.tasks import TASKS
from compression.system import durable_files

SCORED: tuple[Split, ...] = ("validation", "test")
UNPACKED = Path("scratch", "unpacked")
"""Folder in the job's output of models that stock code opens, if it cannot open the uploaded ones."""


def read_dataset(spec: Spec, base: Path, asked: DatasetSpec) -> tuple[Dataset, Evaluate]:
    """Read a dataset and its evaluation settings. Raises the reader's errors, and InvalidSpec if the recipe does not fit."""
    dataset = modality_of(asked.task).read(asked.data, base, asked.task, spec.recipe.train.seed)
    names = [one.name for one in spec.asked]
    evaluate = evaluation_settings(spec.evaluate, names.index(asked.name), len(names), asked.task, dataset.labels)
    check_task(asked.task, spec.recipe, evaluate)
    return dataset, evaluate


def draw_samples(modality: Modality, task: Task, rows: Sequence[Row], labels: tuple[str, ...]) -> dict[int, Sample]:
    """Draw rows of test at random -> by number, what people see of them. All artifacts of a job answer the same ones.

    Empty if the task predicts no single rows, or if the modality shows none.
    """
    if not TASKS[task].asks:
        return {}
    numbers = np.random.default_rng(0).choice(len(rows), min(MOST_SAMPLES, len(rows)), replace=False)
    drawn = sorted(int(number) for number in numbers)
    shown = modality.samples([rows[number] for number in drawn], labels)
    return dict(zip(drawn, shown, strict=True)) if shown else {}


@dataclass(frozen=True)
class JobData:
    """A dataset, the preprocessor of the model that reads it, and how the model is scored on it."""

    spec: Spec
    base: Path
    name: str  #: empty if it is the job's only dataset
    modality: Modality
    dataset: Dataset  #: its labels in the order of the model's outputs
    evaluate: Evaluate  #: with an open window filled in
    reading: Preprocessor
    task: TaskAdapter
    scored: Mapping[Split, list[int]]  #: by split, the rows that are scored, if not all of them are
    files: Mapping[Split, Path]  #: from which the measuring process reads the rows that it scores
    samples: Mapping[int, Sample]  #: by number among the rows of test in `files`, those that the report shows

    @classmethod
    def of(
        cls,
        spec: Spec,
        base: Path,
        asked: DatasetSpec,
        read: tuple[Dataset, Evaluate],
        folder: Path,
        config: PretrainedConfig,
        labels: tuple[str, ...],
    ) -> "JobData":
        """Open the preprocessor, complete the evaluation settings, and write the rows that are scored. read: of `read_dataset`;
        folder, config: of the model; labels: in the order of its outputs. Raises InvalidSpec and EmptySplit.
        """
        (dataset, evaluate), modality, settings = read, modality_of(asked.task), spec.recipe.train
        if dataset.labels:
            dataset = dataset.in_order(labels)
        reading = modality.preprocessor(folder, config, settings.max_length)
        positions = adapter_of(config).max_positions(config)
        evaluate = modality.evaluation(evaluate, asked.task, settings.max_length, positions)
        scored = modality.scored(dataset, reading, evaluate, asked.task, settings.seed)
        files: dict[Split, Path] = {}
        rows: dict[Split, list[Row]] = {}
        for split in SCORED:
            files[split] = base / spec.output / "scratch" / f"{f'{split}-{asked.name}'.rstrip('-')}.jsonl"
            files[split].parent.mkdir(parents=True, exist_ok=True)
            every = dataset.judged(split)
            rows[split] = [every[number] for number in scored[split]] if split in scored else every
            durable_files.write_text(files[split], "".join(json.dumps(row) + "\n" for row in rows[split]))
        task = modality.task(asked.task, evaluate, dataset.labels)
        samples = draw_samples(modality, asked.task, rows["test"], dataset.labels)
        return cls(spec, base, asked.name, modality, dataset, evaluate, reading, task, scored, files, samples)

    @property
    def output(self) -> Path:
        """The job's output folder."""
        return self.base / self.spec.output

    @property
    def scratch(self) -> Path:
        """The job's folder for files that may be lost."""
        return self.output / "scratch"

    def settings(self, sample: Sequence[Row], *, last_try: bool) -> RunSettings:
        """Return what all artifacts of the dataset share. sample: a few rows on which they are verified."""
        return RunSettings(
            task=self.task.name,
            labels=self.dataset.labels,
            evaluate=self.evaluate,
            output=self.output,
            rows=self.files,
            sample=sample,
            samples=list(self.samples),
            origin=Origin.of(self.spec, self.base),
            part=self.name or None,
            seed=[one.name for one in self.spec.asked].index(self.name),  # so that the datasets' draws are independent
            quality_gate=self.spec.targets.quality_gate,
            last_try=last_try,
            emulate_seconds=self.spec.emulate_seconds,
        )
