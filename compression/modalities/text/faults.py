"""Finds the row at which a file of text or of delimited values cannot be read, after its reader has failed. Torch-free."""

import contextlib
import csv
from pathlib import Path

from compression.schema.errors import UnreadableData

TO_UTF8 = "Save the file as UTF-8: iconv -f latin1 -t utf-8 FILE > NEW converts one of Western European characters."
EVENLY = (
    "Give each row as many values as the first line names; a value that holds a {mark}, a quote or a line break is put into "
    "double quotes."
)


def in_csv(path: Path, delimiter: str, longest: int) -> UnreadableData | None:
    """Return the error of the first row that has too few or too many values, or is not UTF-8; None if there is none.

    longest: characters of a line; Python's csv module bounds the values. Rows count from 1, below the header.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines, contextlib.suppress(csv.Error):
        rows = csv.reader(iter(lambda: lines.readline(longest), ""), delimiter=delimiter)
        width = 0
        for number, values in enumerate(filter(None, rows)):
            where, param = (f"row {number} of {path.name} (line {rows.line_num})", f"{path.name}:{number}")
            if number == 0:
                where, param, width = f"the header of {path.name}", path.name, len(values)
            if not _is_utf8("".join(values)):
                return UnreadableData(f"{where} is not UTF-8", param=param, remedy=TO_UTF8)
            if len(values) != width:
                mark = {",": "comma", "\t": "tab"}.get(delimiter, delimiter)
                cause = f"{where} has {len(values)} of the {width} values that the header names"
                return UnreadableData(cause, param=param, remedy=EVENLY.format(mark=mark))
    return None


def in_text(path: Path, problem: UnicodeDecodeError) -> UnreadableData:
    """Return the error of the first line that is not UTF-8; `problem` is what the reader said of a part of the file."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=None) as lines:
        for number, line in enumerate(lines, start=1):
            if not _is_utf8(line):
                return UnreadableData(f"line {number} of {path.name} is not UTF-8", param=path.name, remedy=TO_UTF8)
    return UnreadableData(f"{path.name} is not readable as text: {problem}", param=path.name, remedy=TO_UTF8)


def _is_utf8(text: str) -> bool:
    """Return whether a text that was decoded with surrogateescape was UTF-8."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)
