"""Names of labels: how a value of the data becomes one. Torch-free."""

from typing import Any

from compression.schema.errors import UnreadableData
from compression.schema.job_spec import LONGEST_LABEL

MOST_LABELS = 1000


def label(value: Any, where: str, param: str) -> str:
    """Convert the value of a label to its name. where, param: of the row, for messages. Raises UnreadableData."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UnreadableData(f"{where}: the label is {kind_of(value)}, not a string, integer or boolean", param=param)
    if len(value) > LONGEST_LABEL or "\0" in value:
        raise UnreadableData(f"{where}: the label is longer than {LONGEST_LABEL} characters or holds a NUL", param=param)
    return encodable(value, where, param)


def encodable(value: str, where: str, param: str) -> str:
    """Return a string that UTF-8 can express. Raises UnreadableData."""
    # JSON can contain half a surrogate pair, and a file's name any bytes: no tokenizer and no report can process them.
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise UnreadableData(f"{where} is not valid Unicode: {problem}", param=param) from problem
    return value


def kind_of(value: Any) -> str:
    """Describe the type of an unfit value."""
    return "empty" if value is None or value == "" else f"of type {type(value).__name__}"
