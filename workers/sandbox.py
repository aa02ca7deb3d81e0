"""Confinement of the engine and of upload checks (docs/decisions/0009-confinement.md).

A confined process sees the system's programs and libraries, the interpreter and its packages, our `compression`, and its own
folder, the only place that it can change. It has no network and no privileges, and none of it outlives its worker.
"""

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import compression
from app.core.settings import Settings, get_settings
from workers import landlock, seccomp
from workers.devices import CPU, Device
from workers.launcher import Plan

Level = Literal["bubblewrap", "landlock+seccomp", "none"]
STRONGEST_FIRST: tuple[Level, ...] = ("bubblewrap", "landlock+seccomp")
CONFINING: dict[Level, int] = {"bubblewrap": 2, "landlock+seccomp": 1, "none": 0}
"""Generations of processes between the started one and the confined one."""
PATIENCE = 60.0
"""Seconds for a trial on a machine that may be busy."""

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
"""Programs and libraries. Of /etc only what finds libraries: no accounts, no configuration."""
CORES = ("/sys/devices/system/cpu", "/sys/devices/system/node")
"""Read to choose numbers of threads and kernels."""
PROC = Path("/proc")
SHARED_BYTES = 2**30
"""Of a job on several cards: what its processes may share in /dev/shm, as NCCL does where cards cannot reach each other."""
SYSFS = Path("/sys")
"""What a card's libraries read of buses and memory, besides CORES; of GPU workers alone."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
OF_A_PREFIX = ("bin", "lib", "lib32", "lib64", "include", "share", "pyvenv.cfg")
"""What belongs to Python in a prefix: a virtual environment may be in a folder that holds more."""

START = "import sys; sys.path.append(sys.argv.pop(1)); from workers.launcher import main; main()"
TRIAL = """
import pathlib, socket, sys, compression
try:
    pathlib.Path(sys.argv[1]).read_bytes()
    sys.exit("it reads what it must not")
except OSError:
    pass
try:
    socket.socket()
    sys.exit("it opens sockets")
except OSError:
    pass
pathlib.Path("written").touch()
"""


class CannotConfine(Exception):
    """No confinement works here, and running without one is not allowed."""

    code = "cannot_confine"

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = (
            "Install bubblewrap (make setup-system), or allow user namespaces to it, or use a kernel and a container runtime "
            "that allow Landlock (docs/operations.md). LATHE_UNCONFINED=1 runs engines without, which trusts every upload."
        )


class PlaceExposed(CannotConfine):
    """Engines would read what is the service's own, however they are confined."""

    code = "place_exposed"

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.remedy = "Choose another place for it, as below /var/lib or a home folder (docs/operations.md)."


class Sandbox:
    """A way to confine. `level` is what a worker's row reports; `lent` can be read besides what every engine reads; of `device`
    it lets the files through. talks: whether the child and its own children may talk, through the loopback of a network that
    only they are in; with bubblewrap alone.
    """

    def __init__(self, level: Level, lent: Sequence[Path] = (), device: Device = CPU, *, talks: bool = False) -> None:
        self.level, self.lent, self.device, self.talks = level, tuple(lent), device, talks

    def wrap(self, command: Sequence[str], folder: Path) -> list[str]:
        """Return the command line that runs `command` confined to `folder`; the starting process becomes its keeper.

        It does not outlive the thread that starts it.
        """
        if self.level == "none":
            return list(command)
        nodes = self.device.nodes
        lent = [*self.lent, *([SYSFS] if nodes else [])]
        read = sorted({*readable_paths(), *(place for place in lent if place.exists())})
        if self.level == "bubblewrap":
            talks = self.talks
            shared = SHARED_BYTES if talks and nodes else 0
            line = tuple(bubblewrap_command(read, folder, nodes, shared))
            plan = Plan(os.getpid(), bubblewrap=line, families=_families(nodes) if talks else ())
        else:
            seen = [*map(str, read), str(PROC)]
            write = [*filter(os.path.exists, DEVICES), *map(str, nodes)]
            fill = (str(PROC),) if nodes else ()
            plan = Plan(os.getpid(), read=tuple(seen), change=(str(folder),), write=tuple(write), fill=fill)
        home = str(Path(__file__).resolve().parent.parent)
        return [sys.executable, "-I", "-S", "-c", START, home, plan.dump(), *command]

    def exit_status(self, code: int) -> int:
        """Return a confined command's status as if it had been started directly: −n if signal n ended it."""
        return 128 - code if self.level != "none" and code > 128 else code


def get_sandbox(settings: Settings, device: Device = CPU, *, talks: bool = False) -> Sandbox:
    """Return the strongest confinement that works here, for children that compute on a device. talks: as of `Sandbox`.

    Raises CannotConfine if none works and one is required, PlaceExposed if that is for where the service's own files are.
    """
    exposed, reasons = find_exposed(settings), []
    for level in STRONGEST_FIRST if exposed is None else ():
        if (reason := find_obstacle(level) or _keeps_cards_out(level, device)) is None:
            return Sandbox(level, lent_folders(settings), device, talks=talks)
        reasons.append(f"{level}: {reason}")
    if settings.unconfined:
        return Sandbox("none", device=device)
    raise PlaceExposed(exposed) if exposed is not None else CannotConfine("; ".join(reasons))


def code_folder(folder: Path) -> Path:
    """Return the folder from which a child imports `compression`, and nothing else of a checkout."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    link = code / "compression"
    if not link.is_symlink():
        link.symlink_to(_package(), target_is_directory=True)
    return code


@cache
def find_obstacle(level: Level) -> str | None:
    """Try a level, once per process, on a child that attempts to escape; return why it cannot be used."""
    if sys.platform != "linux":
        return "this is not Linux"
    if level == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed"
    with tempfile.TemporaryDirectory(prefix="lathe-trial-") as made:
        place = Path(made).resolve()
        secret, folder = place / "secret", place / "folder"
        secret.write_text("kept from engines")
        folder.mkdir()
        try:
            if level != "bubblewrap":
                landlock.abi()
            done = subprocess.run(
                Sandbox(level).wrap([sys.executable, "-P", "-c", TRIAL, str(secret)], folder),
                cwd=folder,
                env={"PYTHONPATH": str(code_folder(folder)), "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            return str(problem)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or [f"the trial ended with {done.returncode}"])[-1][:300]
        return None if (folder / "written").exists() else "the trial wrote nothing"


def find_exposed(settings: Settings) -> str | None:
    """Return which of our own places lies where engines can read."""
    private = {"LATHE_HOME": settings.home}
    for name, url, scheme in (
        ("LATHE_STORAGE_URL", settings.storage_url, "file://"),
        ("LATHE_DATABASE_URL", settings.database_url, "sqlite:///"),
    ):
        if url.startswith(scheme):
            path = url.removeprefix(scheme)
            private[name] = Path(unquote(path) if scheme == "file://" else path).resolve()
    for name, place in private.items():
        for root in (*readable_paths(), *lent_folders(settings)):
            if place.is_relative_to(root.resolve()):
                return f"{name} ({place}) lies beneath {root}, which engines read"
    return None


def readable_paths() -> list[Path]:
    """Return what a confined process reads besides its folder: existing paths only, outer ones before inner ones."""
    places = [Path(path) for path in (*SYSTEM, *CORES)]
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        places += (Path(prefix) / part for part in OF_A_PREFIX)
    places += _packages()
    # Where the operator keeps libraries.
    places += (Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path.startswith("/"))
    places.append(_package())
    return sorted({place for place in places if place.exists() and place != Path("/")})


def lent_folders(settings: Settings) -> list[Path]:
    """Return the folders that the operator offers to all jobs: word lists, augmentation models, data of lm-eval's tasks."""
    offered = (settings.wordnet, settings.helper_models, settings.lm_eval_data)
    return [place for place in offered if place is not None and place != Path("/")]


def bubblewrap_command(read: Iterable[Path], folder: Path, nodes: Sequence[Path] = (), shared: int = 0) -> Iterator[str]:
    """Yield bubblewrap's command line: its own root, namespaces of every kind, and a card's device files. shared: bytes of
    /dev/shm, if there is one.
    """
    yield shutil.which("bwrap") or "bwrap"
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "lathe")
    yield from ("--proc", "/proc", "--dev", "/dev", "--dir", "/tmp")  # noqa: S108
    for place in read:
        if place.is_symlink() and place.parent == Path("/"):  # /lib → usr/lib
            yield from ("--symlink", str(place.readlink()), str(place))
        else:
            yield from ("--ro-bind", str(place), str(place))
    for node in nodes:
        yield from ("--dev-bind", str(node), str(node))
    yield from ("--bind", str(folder), str(folder))
    if shared:
        yield from ("--size", str(shared), "--tmpfs", "/dev/shm")  # noqa: S108
    # Root owns /proc/sys, with or without privileges. NVIDIA's driver (570 and later) names its threads through /proc when it
    # starts, and gives up where it cannot; so beside a card all is read-only but the folders of the engine's own processes.
    for place in guarded_proc() if nodes else ():
        yield from ("--ro-bind", str(place), str(place))
    # bubblewrap's own mounts are in memory, and must not be filled.
    yield from (
        *(() if nodes else ("--remount-ro", str(PROC))),
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--chdir",
        str(folder),
    )


def guarded_proc() -> Iterator[Path]:
    """Yield what /proc has besides processes, if anybody may write there, or it is a folder."""
    for place in sorted(PROC.iterdir()):
        if not place.name.isdigit() and not place.is_symlink() and (place.is_dir() or place.stat().st_mode & 0o222):
            yield place


def _families(nodes: Sequence[Path]) -> tuple[int, ...]:
    """Return the families of sockets for processes that train together. NCCL opens a Unix socket whatever it then uses; its
    name is of the network, which only these processes are in.
    """
    return (*seccomp.LOOPBACK, *([seccomp.UNIX] if nodes else []))


def _keeps_cards_out(level: Level, device: Device) -> str | None:
    """Return why a card does not work at a level, or None."""
    if level != "bubblewrap" and device.nodes and os.geteuid() == 0:
        return "a card's driver writes to /proc, and Landlock would then leave root /proc/sys: run the worker as another user"
    return None


def _package() -> Path:
    return Path(compression.__file__).resolve().parent


def _packages() -> list[Path]:
    found = [*site.getsitepackages(), *(path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"})]
    return [Path(path) for path in found]


def main() -> int:
    """Print the level in force here, and why it is not a stronger one."""
    try:
        found = get_sandbox(get_settings())
    except CannotConfine as problem:
        sys.stderr.write(f"{problem.code}: {problem.cause}\n{problem.remedy}\n")
        return 1
    for stronger in takewhile(lambda level: level != found.level, STRONGEST_FIRST):
        sys.stderr.write(f"not {stronger}: {find_obstacle(stronger) or 'see LATHE_HOME'}\n")
    sys.stdout.write(found.level + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
