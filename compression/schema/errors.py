"""The errors of a user's model, data or recipe. Torch-free.

A `CompressionError` is the user's to fix: it has a stable code, a cause, a remedy and the field that it is about. Workers retry
only the last five, which the machine partly causes. Any other exception that leaves the engine is a bug or a machine failure.
Each code has a paragraph in docs/errors.md; a test compares the two.
"""

from collections.abc import Sequence
from typing import ClassVar


# The base of all others. A check raises the base itself for a problem that has no error of its own.
class CompressionError(Exception):
    """What was sent cannot be read, for a reason that has no code of its own."""

    code: ClassVar[str] = "compression_error"
    remedy: ClassVar[str] = "Read the cause; if it does not say what to change, report it with the id of the upload or job."

    def __init__(self, cause: str, *, param: str | None = None, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.param = param
        self.remedy_text = remedy or self.remedy

    def found_in(self, place: str) -> None:
        """Put the name of one of several inputs before the cause."""
        self.cause = f"{place}: {self.cause}"
        self.args = (self.cause,)

    def as_dict(self) -> dict[str, str | None]:
        """Return code, cause, remedy and param, as events and problem documents contain them."""
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy_text, "param": self.param}


class InvalidSpec(CompressionError):
    """The job's specification or its recipe is not well formed."""

    code = "invalid_spec"
    remedy = "Correct the named field; GET /v1/recipes shows every key with its range."


class UnsupportedArchitecture(CompressionError):
    """The model is of no family that Lathe can take apart."""

    code = "unsupported_architecture"
    remedy = "Send a model of a supported family; GET /v1/families lists them."


class UnsupportedOperator(CompressionError):
    """A network has an operator, or a form of one, that Lathe cannot take apart."""

    code = "unsupported_operator"
    remedy = "Export the network with the named part written in plain operators, or send a model of a supported family."


class UnsupportedShape(CompressionError):
    """The family is known, but this recipe asks for a shape that its stock config cannot express."""

    code = "unsupported_shape"
    remedy = "Choose a milder ratio or fewer axes, so that at least one head and one layer's multiple remain."


class TargetOutOfReach(CompressionError):
    """No widths of this model meet the targets.

    `nearest`: what comes nearest, as the solver returns solutions. `proven`: whether none do, or only none that was looked at.
    """

    code = "target_out_of_reach"
    remedy = "Choose a milder target, or name more axes in prune.axes."

    def __init__(
        self, cause: str, *, nearest: object = None, proven: bool = True, param: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(cause, param=param, remedy=remedy)
        self.nearest = nearest
        self.proven = proven


class UnsupportedTask(CompressionError):
    """Models of this family are not made for this task here."""

    code = "unsupported_task"
    remedy = "Send a model of another family (GET /v1/families lists the tasks of each), or data for one of its tasks."


class UnsupportedTokenizer(CompressionError):
    """The tokenizer cannot shrink with the vocabulary, or stock code reads a GGUF one differently."""

    code = "unsupported_tokenizer"
    remedy = "Leave vocabulary out of prune.axes, or send a WordPiece, byte-pair or Unigram tokenizer.json."


class MissingFile(CompressionError):
    """A file that the model or the dataset needs is not there."""

    code = "missing_file"
    remedy = (
        "Upload the named file with the others; a model needs config.json, *.safetensors and tokenizer.json, "
        "or is one GGUF file; one of images has preprocessor_config.json instead of a tokenizer, and may be one ONNX file."
    )


class UnsafeCheckpoint(CompressionError):
    """The checkpoint is a pickle, or has code or compiled kernels with it that opening it could run."""

    code = "unsafe_checkpoint"
    remedy = "Save the model with save_pretrained(..., safe_serialization=True) and upload the *.safetensors files."


class UnexpectedFile(CompressionError):
    """A model or a dataset has a file that neither the engine nor stock tools read."""

    code = "unexpected_file"
    remedy = "Leave the named file out."


class DamagedCheckpoint(CompressionError):
    """The weights are truncated, or their header does not tell the truth."""

    code = "damaged_checkpoint"
    remedy = "Upload the file again from a whole copy; compare its sha256 with the source's."


class ConfigMismatch(CompressionError):
    """The weights have other shapes or names than config.json says."""

    code = "config_mismatch"
    remedy = "Upload the config.json that was saved with these weights."


class UnreadableData(CompressionError):
    """A data file is not of the format that it was declared to be."""

    code = "unreadable_data"
    remedy = "Check the declared format and the named row; text must be UTF-8."


class MissingColumn(CompressionError):
    """A column named in `columns` is not in the data."""

    code = "missing_column"
    remedy = (
        "Name one that the file has in `columns` (`lathe`: --text-column, --label-column, --column), or add it to the file."
    )


class EmptySplit(CompressionError):
    """A split has no usable rows, or too few to work with."""

    code = "empty_split"
    remedy = "Put rows into the split, or leave it out so that it is carved from train."


class UnfitLabel(CompressionError):
    """A row's label is not of the form that the task needs."""

    code = "unfit_label"
    remedy = "Correct the named row, or name the task that the data is for."


class UnseenLabel(CompressionError):
    """A label of validation or test does not occur in train."""

    code = "unseen_label"
    remedy = "Add rows with that label to train, or remove them from the other split."


class SingleLabel(CompressionError):
    """All rows of train bear the same label."""

    code = "single_label"
    remedy = "Send data with at least two labels."


class LabelMismatch(CompressionError):
    """The model's head and the data do not have the same labels."""

    code = "label_mismatch"
    remedy = "Send data with the model's labels (its config's id2label), or the bare encoder without a head."


class UnsupportedPrecision(CompressionError):
    """The recipe insists on a precision that the worker's device does not compute in."""

    code = "unsupported_precision"
    remedy = "Choose precision auto or float32, or send the job to a worker whose device has bfloat16."


class MissingResource(CompressionError):
    """The job needs a program, package, word list, helper model or data that this worker does not have."""

    code = "missing_resource"
    remedy = "Ask who runs the worker to install what is named, or choose another source in the recipe."


class NotServable(CompressionError):
    """`lathe serve` does not serve artifacts of this format or task."""

    code = "not_servable"
    remedy = "Download an artifact that serves, of the same job: `lathe download JOB --kind onnx`."


class TrainingDiverged(CompressionError):
    """The loss became NaN or infinite and did not recover."""

    code = "training_diverged"
    remedy = "Lower the learning rate of the named stage."


class ExportMismatch(CompressionError):
    """A reloaded artifact does not answer as the engine's model does."""

    code = "export_mismatch"
    remedy = "Report it with the job's id; until it is mended, skip the named stage or change the shape."


class OutOfMemory(CompressionError):
    """The machine's or the device's memory did not suffice."""

    code = "out_of_memory"
    remedy = "Lower train.batch or train.max_length, or send the job to a worker with more memory."


class DeviceError(CompressionError):
    """The accelerator reported an error, also when the work was done again."""

    code = "device_error"
    remedy = "Retry the job; if it happens again, the device of the named worker wants looking after."


class DeviceLost(CompressionError):
    """The engine was started for a GPU and found none."""

    code = "device_lost"
    remedy = (
        "It is tried again by itself; if the job has failed, retry it once the card works: facts.device.lost in "
        "GET /v1/workers says what is wrong."
    )


class RankLost(CompressionError):
    """One of the processes of a training on several devices ended."""

    code = "rank_lost"
    remedy = "It is tried again by itself, from the last save; if the job has failed, retry it, or send train.devices: 1."


class DiskFull(CompressionError):
    """The disk of the worker or of the storage has no room for this job."""

    code = "disk_full"
    remedy = "Delete models, datasets or jobs that nobody needs, or enlarge the disk; then retry the job."


ALL_ERRORS: tuple[type[CompressionError], ...] = (CompressionError, *CompressionError.__subclasses__())
"""All errors that have their own code, for docs/errors.md and its test."""


def listed(names: Sequence[str], most: int = 8) -> str:
    """Quote the first of possibly many names, for a cause."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
