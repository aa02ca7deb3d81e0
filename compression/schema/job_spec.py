"""The input of the engine's commands: one job, or one upload to be checked."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compression.schema.config import Config
from compression.schema.errors import UnreadableData
from compression.schema.recipe.base import MOST_PARTS, MOST_TEACHERS, DataFormat, DataSplit, JobTask, PartName, Task
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets, gated
from compression.schema.schemes import Scheme
from compression.schema.specs import COLUMNS, PLAIN
from compression.schema.tasks import TASKS
from compression.schema.worker_device import DeviceKind

Reason = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00]*$")]
Column = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class Columns(Config):
    """The columns of the data files by use; each task reads only its own. causal-lm reads `text`, one document per row."""

    text: Column = "text"
    text_pair: Column | None = None
    """The second text. null: pair classification reads text_pair, regression has none."""
    label: Annotated[Column, Field(description="The class, or for regression the number.")] = "label"
    tokens: Annotated[Column, Field(description="Token classification: a list of words.")] = "tokens"
    tags: Annotated[Column, Field(description="Token classification: a list of as many tags, entities in IOB2.")] = "tags"
    question: Column = "question"
    context: Column = "context"
    answers: Column = "answers"
    """Of the question: {text: […], answer_start: […]}, characters from 0; empty lists: no answer."""
    image: Annotated[Column, Field(exclude_if=lambda value: value == "image")] = "image"
    """Image classification: bytes of files, or {bytes, path}; of npz, uint8 arrays (images, height, width, channels)."""


class Data(Config):
    """Files of one format and their splits; `train` is required. A split of the format folder is folders, in each of which is a
    folder of images for each class, or image files whose folders bear the names of their classes.

    A missing validation or test is carved from it. `unlabelled` are texts for the general phase of distillation: only the
    column `text` is read, for any task.
    """

    format: DataFormat
    columns: Columns = Columns()
    splits: dict[DataSplit, Annotated[tuple[str, ...], Field(min_length=1)]]
    """Files of each split."""

    @model_validator(mode="after")
    def _there_is_something_to_train_on(self) -> "Data":
        if "train" not in self.splits:
            raise ValueError("splits has no train")
        return self


def check_data(task: Task, data: Data) -> None:
    """Check that data suit a task. Raises UnreadableData. Language models train on all texts alike, so they have no
    `unlabelled` texts; other tasks need columns, which the format text does not have.
    """
    spec = TASKS[task]
    if "unlabelled" in data.splits and not spec.unlabelled:
        remedy = f"Put the texts into train: {task} has no labels." if spec.generates else "Leave it out."
        raise UnreadableData(f"{task} has no split unlabelled", param="data.splits.unlabelled", remedy=remedy)
    if data.format not in spec.formats:
        cause, remedy = f"{task} is not read from {data.format}", f"Send {' or '.join(spec.formats)}."
        if data.format == PLAIN and spec.formats == COLUMNS:
            cause, remedy = f"{task} needs columns, which text does not have", "Send JSON lines, CSV or Parquet."
        raise UnreadableData(cause, param="data.format", remedy=remedy)


class DatasetSpec(Config):
    """One dataset of a job: a model is made for each. `name` distinguishes several."""

    name: PartName = ""
    task: Task = "text-classification"
    data: Data


class Resolved(Config):
    """What a device table decided of a recipe, once for all attempts of a job."""

    scheme: Scheme | None = None
    """In place of quantize.scheme auto; null: the recipe has none to decide."""
    multiple: Annotated[int | None, Field(ge=1, le=256, description="In place of prune.multiple auto.")] = None
    reasons: Annotated[tuple[Reason, ...], Field(max_length=4)] = ()
    """What was predicted, for the report."""


class Spec(Config):
    """The input of `python -m compression run`: one job, with local paths. Relative paths start at the spec's folder."""

    version: Literal[1] = 1
    job: Annotated[str | None, Field(max_length=40)] = None
    """The job's id, for the artifacts' before.json; null if there is none."""
    task: JobTask = "text-classification"
    model: Annotated[str, Field(description="Folder with config.json, *.safetensors and the tokenizer.")]
    student: str | None = None
    """Folder of another model that distillation trains in place of the pruned one."""
    teachers: Annotated[tuple[str, ...], Field(max_length=MOST_TEACHERS)] = ()
    """Folders of fine-tuned models that also teach."""
    data: Annotated[Data | None, Field(description="Of a job with one dataset; null where there are `parts`.")] = None
    parts: Annotated[tuple[DatasetSpec, ...], Field(max_length=MOST_PARTS)] = ()
    """Several named datasets; `task` is then `several`."""
    recipe: Recipe = Recipe()
    targets: Targets = Targets()
    evaluate: JobEvaluate = JobEvaluate()
    output: Annotated[str, Field(description="Folder for checkpoints/, artifacts/ and report.json; made if missing.")]
    resume: str | None = None
    """Folder of an earlier attempt's checkpoints: one per stage, and training/."""
    threads: Annotated[int | None, Field(ge=1, le=1024, description="Training threads; all cores where null.")] = None
    training_seconds: Annotated[float | None, Field(ge=0)] = None
    """Forecast of all training: scoring an artifact takes no longer, or ten minutes. null: as long as it has trained so far."""
    save_seconds: Annotated[float | None, Field(ge=0, description="Interval of training checkpoints; null: none.")] = None
    split_batches: Annotated[int, Field(ge=1, le=64, description="Micro-batches per batch, if memory was too small.")] = 1
    memory_bytes: Annotated[int | None, Field(ge=1)] = None
    """Limit of the engine's resident memory; null: unknown. A job without training runs on disk if its model takes more."""
    cache_bytes: Annotated[int | None, Field(ge=0)] = None
    """Most bytes of a file of teachers' outputs if `distill.spill_gib` is auto; null: half of the disk's free space."""
    device: DeviceKind | None = None
    """What the job was claimed for: an engine that finds no GPU then fails with device_lost; null: the one that is there."""
    emulate_seconds: Annotated[float | None, Field(ge=0)] = None
    """Time for comparing each int8 ONNX file under AVX2, emulated by qemu-user; null: no comparison."""
    wordnet: Annotated[str | None, Field(description="Folder with WordNet's database files (wndb), for augmentation.")] = None
    helper_models: Annotated[str | None, Field(description="Folder of the model folders that augmentation may name.")] = None
    lm_eval_data: str | None = None
    """Folder of lm-eval's data, named as on the hub: allenai/ai2_arc."""
    device_tables: tuple[str, ...] | None = None
    """Files of device tables. If a recipe needs one and none is of this machine, it is measured; null: nothing is predicted."""
    error_tables: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Folders with error tables of earlier jobs of this model and data, which a search reads if they are of its very inputs."""
    resolved: Resolved | None = None
    """What an earlier attempt decided by its table."""

    @model_validator(mode="after")
    def _auto_is_gated(self) -> "Spec":
        if (targets := gated(self.recipe, self.targets)) is not self.targets:
            self.__dict__["targets"] = targets  # specifications are frozen, but this one is only being made
            self.__pydantic_fields_set__.add("targets")
        return self

    @model_validator(mode="after")
    def _no_devices(self) -> "Spec":
        if self.evaluate != self.evaluate.without_devices:
            raise ValueError("evaluate.devices are asked by a service's worker, not by the engine: it waits no device_seconds")
        return self

    @model_validator(mode="after")
    def _one_dataset_or_several(self) -> "Spec":
        names = [part.name for part in self.parts]
        if (self.data is None) != bool(names) or (self.task == "several") != bool(names):
            raise ValueError("either data and its task, or parts and the task `several`")
        if len(names) == 1 or "" in names or len(set(names)) < len(names):
            raise ValueError("parts are two or more, each with a name of its own")
        for part in self.parts:
            if TASKS[part.task].generates:
                raise ValueError(f"perplexities have no mean with other scores: {part.task} is a job of one dataset")
        return self

    @property
    def asked(self) -> tuple[DatasetSpec, ...]:
        """Return the datasets in their order; the only dataset of a job has no name."""
        if self.data is None or self.task == "several":
            return self.parts
        return (DatasetSpec(task=self.task, data=self.data),)


class ModelCheck(Config):
    """The input of `python -m compression validate` for a model: is it safe, whole and of a known family?"""

    kind: Literal["model"] = "model"
    path: str


class DataCheck(Config):
    """The input of `python -m compression validate` for a dataset: do its files match its manifest?"""

    kind: Literal["dataset"] = "dataset"
    path: Annotated[str, Field(description="Folder that the files of `data` are named from.")] = "."
    task: Task = "text-classification"
    data: Data


LONGEST_LABEL = 200
"""In characters. Labels are listed in facts, reports and a model's config."""
