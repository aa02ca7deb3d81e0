"""Ask OSV for known vulnerabilities of all locked packages, and of the installed torch and torchvision.

    python scripts/audit.py [--url https://api.osv.dev/v1/query]

Exits with 0 only where each package was asked for and nothing is known of it; 1: something is; 3: not checked. A package that
is known to be vulnerable is asked for too: a source that knows nothing of it knows nothing.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import venvs

PIN = re.compile(r"^([\w.-]+)==([^\s\\;]+)", re.MULTILINE)
IMAGE_PIN = re.compile(r"(?<=\s)([a-z][\w.-]*)==([^\s\\;]+)")
CANARY = ("django", "1.8")
FINE, FOUND, NOT_CHECKED = 0, 1, 3
Pins = dict[str, str]


def pins() -> Pins:
    """Return the locked versions, with what builds and images add, and those of the installed torch and torchvision without
    their builds.
    """
    files = [*sorted((venvs.ROOT / "requirements").glob("*.txt")), venvs.ROOT / "constraints.txt"]
    found = {name: version for file in files for name, version in PIN.findall(file.read_text(encoding="utf-8"))}
    found |= dict(IMAGE_PIN.findall((venvs.ROOT / "Dockerfile").read_text(encoding="utf-8")))
    for name in ("torch", "torchvision"):
        for installed in importlib.metadata.distributions(name=name):
            found[name] = installed.version.split("+")[0]
    return found


def judge(report: dict[str, Any] | None, wanted: Pins) -> tuple[int, list[str]]:
    """Return the exit code and the messages for pip-audit's report; None: there is none."""
    if report is None:
        return NOT_CHECKED, ["not checked: the source of vulnerabilities was not reached"]
    told = {plain_name(each["name"]): each for each in report["dependencies"]}
    if not told.get(CANARY[0], {}).get("vulns"):
        return NOT_CHECKED, [f"not checked: the source does not know that {'=='.join(CANARY)} is vulnerable"]
    missing = sorted(name for name in wanted if "vulns" not in told.get(plain_name(name), {}))
    vulnerable = [
        f"{name}=={version}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no release'}"
        for name, version in sorted(wanted.items())
        for found in told.get(plain_name(name), {}).get("vulns", [])
    ]
    if missing:
        return FOUND if vulnerable else NOT_CHECKED, [*vulnerable, f"not checked: {', '.join(missing)}"]
    return (FOUND, vulnerable) if vulnerable else (FINE, [f"nothing is known of {len(wanted)} packages"])


def asked(wanted: Pins, url: str | None) -> tuple[dict[str, Any] | None, str]:
    """Return pip-audit's report, None if it made none, and its last line."""
    tool = venvs.make("audit").with_name("pip-audit")
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        lines = [f"{name}=={version}\n" for name, version in [*wanted.items(), CANARY]]
        requirements.write_text("".join(lines), encoding="utf-8")
        command = [tool, "-r", requirements, "--no-deps", "--disable-pip", "-s", "osv", "-f", "json", "-o", report]
        command += ["--progress-spinner", "off", *(["--osv-url", url] if url else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else None, last


def main(arguments: Sequence[str]) -> int:
    """Ask, print the result, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", help="of another source with OSV's API")
    wanted = pins()
    report, last = asked(wanted, parser.parse_args(arguments).url)
    code, lines = judge(report, wanted)
    print(*lines, *([last] if report is None else []), sep="\n")
    return code


def plain_name(spelled: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", spelled).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
