"""List what is installed in this environment as CycloneDX JSON, checked against the format's schema and against the lock."""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import audit
import venvs


def installed() -> set[tuple[str, str]]:
    """Return name and version of what is installed and locked, and of torch and torchvision.

    Only this environment's folders count: setuptools, once imported, adds packages of its own to the path.
    """
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    pinned = {audit.plain_name(name) for name in audit.pins()}
    found = {(audit.plain_name(each.name), each.version) for each in importlib.metadata.distributions(path=folders)}
    return {(name, version) for name, version in found if name in pinned}


def main(target: Path) -> int:
    """Write the list; return 1 if it lacks a package."""
    tool = venvs.make("audit").with_name("cyclonedx-py")
    options = ["--pyproject", venvs.ROOT / "pyproject.toml", "--output-reproducible", "--validate", "--of", "JSON"]
    subprocess.run([tool, "environment", *options, "-o", target, sys.executable], check=True)
    bill = json.loads(target.read_text(encoding="utf-8"))
    listed = {(audit.plain_name(each["name"]), each["version"]) for each in bill["components"]}
    missing = sorted(installed() - listed)
    print(
        f"{target}: CycloneDX {bill['specVersion']}, {len(listed)} packages" + (f"; not listed: {missing}" if missing else "")
    )
    return 1 if missing else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the file to write, as lathe.cdx.json")
    sys.exit(main(parser.parse_args().target))
