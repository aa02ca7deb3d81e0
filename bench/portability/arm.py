"""Installs Debian's Python for Arm with numpy and ONNX Runtime into a folder, to run under qemu-aarch64.

By the machine's own apt and pip, into `place`; the system stays as it is. It takes Debian and the network, once.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

EMULATOR, PROCESSOR = "qemu-aarch64", "max"
DEBIAN = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5"),
    *("python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib"),
)
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PYTHON = "3.13"
WHEELS = ("numpy", "onnxruntime")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


def hindrance(place: Path) -> str | None:
    """Install everything into `place` unless it is there; return why that is impossible, or None."""
    if shutil.which(EMULATOR) is None:
        return "qemu-user is not installed"
    if (place / "done").is_file():
        return None
    if shutil.which("apt-get") is None or not SOURCES.is_file():
        return "Debian's arm64 Python is fetched by apt-get, which is not here"
    try:
        shutil.rmtree(place, ignore_errors=True)
        _system(place.resolve())
        _packages(place.resolve())
    except (subprocess.CalledProcessError, OSError) as problem:
        said = getattr(problem, "stderr", None) or str(problem)
        return f"Debian's arm64 Python or its wheels could not be fetched: {said.strip()[-200:]}"
    (place / "done").touch()
    return None


def interpreter(place: Path) -> list[str]:
    """Return the command line of the Python under the emulated processor."""
    root = place / "root"
    return [EMULATOR, "-cpu", PROCESSOR, "-L", str(root), str(root / "usr" / "bin" / f"python{PYTHON}")]


def packages(place: Path) -> Path:
    """Return the folder of its wheels."""
    return place / "packages"


def _system(place: Path) -> None:
    state, cache, root = place / "apt" / "state", place / "apt" / "cache", place / "root"
    for folder in (state / "lists" / "partial", cache / "archives" / "partial", root):
        folder.mkdir(parents=True)
    (state / "status").touch()
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
        "Dir::Etc::SourceList": SOURCES,
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], place)
    _run([*apt, "download", *DEBIAN], cache)
    for package in sorted(cache.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)], place)
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # as Debian's base-files have it


def _packages(place: Path) -> None:
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    platforms = [part for one in PLATFORMS for part in ("--platform", one)]
    target = ["--target", str(packages(place)), "--only-binary=:all:", "--no-deps", "--python-version", PYTHON]
    _run([sys.executable, "-m", "pip", "install", "--quiet", *target, *platforms, *wanted], place)


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
