"""The processor's name and its instruction sets, read from files as kernels write them."""

import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from compression.system.processor import LONGEST, possible_instructions, processor, runtime_versions

X86 = "processor\t: 0\nmodel name\t: Made 3000\nflags\t\t: fpu fma avx2\n\nprocessor\t: 1\nmodel name\t: Made 3000\n"
CORE = "processor\t: {}\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {}\nCPU part\t: {}\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def arm(cpuinfo: Path, *cores: tuple[str, str]) -> str:
    cpuinfo.write_text("\n".join(CORE.format(number, *core) for number, core in enumerate(cores)))
    return processor(cpuinfo)


def test_a_processor_has_the_name_that_the_kernel_gives(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert processor(cpuinfo) == "Made 3000"
    cpuinfo.write_text(f"model name\t: {'x' * 300}\n")
    assert processor(cpuinfo) == "x" * LONGEST


def test_chips_without_a_name_are_told_apart_by_their_cores(cpuinfo: Path) -> None:
    one = arm(cpuinfo, ("0x3", "0xd0c"), ("0x3", "0xd0c"))
    assert one == f"{platform.machine()} implementer 0x41 part 0xd0c variant 0x3"
    other = {arm(cpuinfo, ("0x1", "0xd0c")), arm(cpuinfo, ("0x3", "0xd40"))}
    large, small = ("0x0", "0xd0b"), ("0x2", "0xd05")
    mixed = arm(cpuinfo, small, large, large)
    assert mixed == arm(cpuinfo, large, small)  # whichever core comes first
    assert len({one, mixed, *other}) == 4
    cpuinfo.write_text("processor\t: 0\n")
    assert processor(cpuinfo) == processor(cpuinfo.parent / "none") == platform.machine()


def test_instruction_sets_are_those_that_the_flags_allow(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert possible_instructions(cpuinfo) == {"DEFAULT", "NO AVX", "AVX2"}
    cpuinfo.write_text(X86.replace("avx2", "avx2 avx512f avx512vl avx512bw avx512dq"))
    assert possible_instructions(cpuinfo) == {"DEFAULT", "NO AVX", "AVX2", "AVX512"}
    arm(cpuinfo, ("0x3", "0xd0c"))
    assert possible_instructions(cpuinfo) is None
    here = possible_instructions()
    assert here is None or torch.backends.cpu.get_cpu_capability() in here


def test_versions_are_those_of_the_installed_runtimes() -> None:
    assert runtime_versions() == {name: version(name) for name in ("onnxruntime", "openvino")}
