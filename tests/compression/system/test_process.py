"""What a child owes its parent."""

import os
import signal
import subprocess
import sys
import time

import psutil

CHILD = "from compression.system import process; process.die_with_parent(); print(1, flush=True); import time; time.sleep(60)"
PARENT = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
)
NOISY = (
    "import os; from compression.system import process\n"
    "with process.private_channel(1) as channel:\n"
    "    print('chatter'); os.system('echo more chatter'); channel.write('event\\n')"
)
IMPORTING = """
import gc, sys
from compression.system import process
lasting = process.imported("compression.schema.recipe.recipe")
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert not any(one is lasting for one in gc.get_objects())  # nobody looks for garbage there any more
try:
    process.imported("compression.no_such_module")
except ModuleNotFoundError:
    assert gc.isenabled()
    print("told")
"""


def test_what_is_imported_is_not_collected_and_what_comes_later_is() -> None:
    assert subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True).stdout == "told\n"


def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def test_prints_cannot_corrupt_the_events() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert done.stdout == "event\n"
    assert "more chatter" in done.stderr
