"""Messages that name an extra: it is one of ours, and is installed from the clone."""

import re
import tomllib
from pathlib import Path

from compression.schema.extras import pip_install

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("app", "client", "compression", "workers") for path in (ROOT / folder).rglob("*") if path.is_file()
)
TEXTS = {path: path.read_text("utf-8") for path in SOURCES if path.suffix in (".py", ".j2", ".html", ".js", ".md")}


def test_no_message_installs_the_package_of_our_name_on_pypi() -> None:
    asked = re.compile(r"lathe\[|pip install '?lathe\b")
    assert asked.search("pip install 'lathe[serve]'")
    assert [str(path) for path, text in TEXTS.items() if asked.search(text)] == []
    assert pip_install("serve").startswith("pip install '.[serve]'")


def test_every_extra_that_a_message_names_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name for text in TEXTS.values() for name in re.findall(r"pip_install\([\"']([\w-]+)[\"']\)", text)}
    assert {"serve", "worker"} <= named <= set(extras)
