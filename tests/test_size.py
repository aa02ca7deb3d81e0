"""What is short can be read: no long file, and no long function."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL = ("app", "bench", "client", "compression", "migrations", "scripts", "tests", "workers")
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
EXCEPTIONS = {"migrations/versions/0001_first_tables.py:upgrade": "the first tables, one after another, as they were"}
"""Longer functions, as FILE:FUNCTION with the reason. At most ten; one that is short again must go."""


def sources(*folders: str, suffix: str = "py") -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob(f"*.{suffix}")


def test_no_file_is_long() -> None:
    found = [*sources(*ALL), *sources("app", suffix="js")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    assert len(lengths) > 500
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FILE} == {}


def test_no_function_is_long_but_for_a_few_with_a_reason() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}:{node.name}"
        for path in sources(*ALL)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    }
    assert found == set(EXCEPTIONS)
    assert len(EXCEPTIONS) <= 10
    assert all(EXCEPTIONS.values())
