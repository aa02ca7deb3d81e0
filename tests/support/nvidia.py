"""A driver's files without a driver: made folders in which cards are listed as NVIDIA's kernel module lists them."""

from pathlib import Path

A100, L4 = "NVIDIA A100-SXM4-80GB", "NVIDIA L4"
UUIDS = ("GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-1111")


def install(root: Path) -> Path:
    """Put two cards into a folder. The first by PCI address has the second device file, as happens on real hosts."""
    for address, name, uuid, minor in (("0000:17:00.0", A100, UUIDS[0], 1), ("0000:ca:00.0", L4, UUIDS[1], 0)):
        place = root / "proc/driver/nvidia/gpus" / address
        place.mkdir(parents=True)
        place.joinpath("information").write_text(
            f"Model: \t\t {name}\nIRQ:   \t\t 61\nGPU UUID: \t {uuid}\nBus Location: \t {address}\nDevice Minor: \t {minor}\n"
        )
    root.joinpath("proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc 12\n"
    )
    (root / "dev/nvidia-caps").mkdir(parents=True)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"):
        root.joinpath("dev", name).write_text(name)
    (root / "proc/driver/nvidia-caps").mkdir()
    minors = "config 1\nmonitor 2\ngpu0/gi7/access 66\ngpu1/gi1/access 130\ngpu1/gi1/ci0/access 131\n"
    root.joinpath("proc/driver/nvidia-caps/mig-minors").write_text(minors)
    for number in (1, 2, 66, 130, 131):
        root.joinpath(f"dev/nvidia-caps/nvidia-cap{number}").write_text("")
    return root
