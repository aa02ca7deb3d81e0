"""`python -m compression validate SPEC.json` checks an untrusted upload and prints one finding. It runs without torch."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from compression.modalities.registry import modality_of
from compression.models.validation import model
from compression.schema.errors import CompressionError, InvalidSpec, MissingFile, OutOfMemory
from compression.schema.job_spec import DataCheck, ModelCheck
from compression.schema.validation import DataFacts, ModelFacts, Rejected
from compression.system.process import limit_memory, private_channel

MOST_REASONS = 50
MOST_MEMORY = 2 << 30  #: Memory limit in bytes. Real uploads are read in pieces and take far less.
Check = Annotated[ModelCheck | DataCheck, Field(discriminator="kind")]
parse_check: TypeAdapter[Check] = TypeAdapter(Check)


def validate(check: ModelCheck | DataCheck, base: Path) -> ModelFacts | DataFacts | Rejected:
    """Return facts about the upload, or every reason to reject it. Relative paths are relative to `base`. A file that cannot be
    judged is rejected, not passed on: no input makes this raise.
    """
    found: ModelFacts | DataFacts | list[CompressionError]
    try:
        if isinstance(check, DataCheck):
            found = modality_of(check.task).check(check.data, base / check.path, check.task)
        elif (folder := base / check.path).is_dir():
            found = model.check(folder)
        else:
            found = [MissingFile(f"{folder.name} is not a folder", param="path")]
    except MemoryError:
        cause = f"the files take more than {MOST_MEMORY:,} bytes of memory to read"
        found = [OutOfMemory(cause, remedy="Send shorter rows, or a smaller tokenizer.")]
    except CompressionError as problem:
        found = [problem]
    except Exception as problem:
        found = [CompressionError(f"the files cannot be read: {type(problem).__name__}: {str(problem)[:500]}")]
    if isinstance(found, list):
        return Rejected(reasons=tuple(reason.as_dict() for reason in found[:MOST_REASONS]))
    return found


def main(path: Path) -> int:
    """Check the upload of the spec at `path`, relative to its folder, and print one finding; return 0, also for a rejection."""
    answers = private_channel()
    limit_memory(MOST_MEMORY)
    finding: ModelFacts | DataFacts | Rejected
    try:
        finding = validate(parse_check.validate_json(path.read_bytes()), path.parent)
    except ValidationError as problem:
        errors = problem.errors(include_url=False)[:MOST_REASONS]
        invalid = [InvalidSpec(error["msg"], param=".".join(map(str, error["loc"]))) for error in errors]
        finding = Rejected(reasons=tuple(reason.as_dict() for reason in invalid))
    print(finding.model_dump_json(), file=answers)
    return 0
