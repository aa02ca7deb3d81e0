"""Look at an upload without trusting it: `python -m compression validate SPEC.json` prints one finding. Torch-free."""

import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from compression.checks import dataset, model
from compression.errors import CompressionError, MissingFile
from compression.process import die_with_parent, private_channel
from compression.recipe import DataCheck, ModelCheck
from compression.report import DataFacts, ModelFacts, Rejected

MOST_REASONS = 50
Check = Annotated[ModelCheck | DataCheck, Field(discriminator="kind")]
parse_check: TypeAdapter[Check] = TypeAdapter(Check)


def validate(check: ModelCheck | DataCheck, base: Path) -> ModelFacts | DataFacts | Rejected:
    """Find out what the upload is, or every reason why it is of no use. Relative paths are taken from `base`.

    A file that we do not know how to judge is refused, not passed on: no input makes this raise.
    """
    try:
        found = _model(base / check.path) if isinstance(check, ModelCheck) else dataset.check(check.data, base)
    except Exception as problem:
        found = [CompressionError(f"the files cannot be read: {type(problem).__name__}: {str(problem)[:500]}")]
    if isinstance(found, list):
        return Rejected(reasons=tuple(reason.as_dict() for reason in found[:MOST_REASONS]))
    return found


def _model(folder: Path) -> ModelFacts | list[CompressionError]:
    if not folder.is_dir():
        return [MissingFile(f"{folder.name} is not a folder", param="path")]
    return model.check(folder)


def main(path: Path) -> ModelFacts | DataFacts | Rejected:
    """Read the spec at `path` and judge what it names; relative paths are taken from the spec's folder."""
    return validate(parse_check.validate_json(path.read_bytes()), path.parent)


if __name__ == "__main__":
    die_with_parent()
    answers = private_channel()
    print(main(Path(sys.argv[1])).model_dump_json(), file=answers)
