"""The filter's tables and program, read back as the kernel would run it, for both machines."""

import errno
import struct

import pytest

from workers import seccomp

ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    data = struct.pack("=iIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    lines = list(struct.iter_unpack("=HBBI", program))
    value, at = 0, 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            value = struct.unpack_from("=I", data, k)[0]
        else:
            at += yes if {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code] else no


@pytest.fixture(params=seccomp.ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Plain = tuple[int, int, bytes]


@pytest.fixture
def plain(machine: str) -> Plain:
    """A machine's column, its number, and the filter of every child."""
    return *seccomp.ARCHITECTURES[machine], seccomp.build_filter({}, machine)


def test_what_is_named_is_refused_and_the_rest_is_allowed(machine: str) -> None:
    column, architecture = seccomp.ARCHITECTURES[machine]
    answers = {**seccomp.ALWAYS, **seccomp.WITHOUT_MOUNTS}
    program = seccomp.build_filter(answers, machine)
    for name, error in answers.items():
        if (number := seccomp.NUMBERS[name][column]) is not None:
            own, others = (verdict(program, architecture, number, who) for who in (0, 4711))
            assert (own, others) == (ALLOW if name in seccomp.OF_OTHERS else ERRNO | error, ERRNO | error), name
    for name in seccomp.SIGNALS:
        number = seccomp.NUMBERS[name][column]
        expected = ERRNO | answers[name] if name in answers else ALLOW
        assert verdict(program, architecture, number) == expected
    named = {numbers[column] for numbers in seccomp.NUMBERS.values()}
    assert all(verdict(program, architecture, number) == ALLOW for number in range(500) if number not in named)


def test_processes_that_train_together_have_sockets_of_their_network_alone(machine: str) -> None:
    column, architecture = seccomp.ARCHITECTURES[machine]
    program = seccomp.build_filter(seccomp.ALWAYS, machine, seccomp.LOOPBACK)

    def asked(name: str, *arguments: int) -> int:
        number = seccomp.NUMBERS[name][column]
        assert number is not None
        return verdict(program, architecture, number, *arguments)

    unix, inet, inet6, netlink, packet, vsock = 1, 2, 10, 16, 17, 40
    assert [asked("socket", family) for family in (inet, netlink)] == [ALLOW, ALLOW]
    assert {asked("socket", family) for family in (unix, inet6, packet, vsock)} == {ERRNO | errno.EPERM}
    assert {asked(name) for name in ("bind", "listen", "connect")} == {ALLOW}
    assert asked("socketpair", unix) == ERRNO | errno.EPERM
    for name, error in seccomp.ALWAYS.items():
        if name not in ("socket", *seccomp.CONNECTIONS) and seccomp.NUMBERS[name][column] is not None:
            assert asked(name) == ERRNO | error, name


def test_threads_and_forks_are_allowed_and_namespaces_are_not(plain: Plain) -> None:
    column, architecture, program = plain
    clone, clone3, limit = (seccomp.NUMBERS[name][column] for name in ("clone", "clone3", "prlimit64"))
    threads, fork, new_user, new_network = 0x3D0F00, 0x01200011, 0x10000011, 0x40000011
    assert [verdict(program, architecture, clone, flags) for flags in (threads, fork)] == [ALLOW, ALLOW]
    assert [verdict(program, architecture, clone, flags) for flags in (new_user, new_network)] == [ERRNO | errno.EPERM] * 2
    assert verdict(program, architecture, clone3) == ERRNO | errno.ENOSYS
    assert [verdict(program, architecture, limit, pid) for pid in (0, 4711)] == [ALLOW, ERRNO | errno.EPERM]


def test_files_signal_nobody(plain: Plain) -> None:
    column, architecture, program = plain
    for name, refused in seccomp.SIGNALS_OF_A_FILE.items():
        number = seccomp.NUMBERS[name][column]
        found = [
            second
            for second in (*range(100), *range(0x8900, 0x8910))
            if verdict(program, architecture, number, 3, second) != ALLOW
        ]
        assert found == list(refused)


def test_where_landlock_guards_no_sizes_a_file_is_emptied_by_writers_alone(machine: str, plain: Plain) -> None:
    column, architecture, without = plain
    guarded = seccomp.build_filter({"truncate": errno.EPERM}, machine)
    reads, writes, both, neither, empties, creates = 0, 1, 2, 3, 0o1000, 0o100
    allowed = [reads, writes, both, writes | empties, both | empties, writes | creates | empties]
    for name, place in seccomp.OPENS.items():
        if (number := seccomp.NUMBERS[name][column]) is None:
            continue

        def asked(program: bytes, flags: int, number: int = number, place: int = place) -> int:
            return verdict(program, architecture, number, *[0] * place, flags, 0o600)

        assert {asked(guarded, flags) for flags in allowed} == {ALLOW}
        refused = [reads | empties, neither, neither | empties]
        assert {asked(guarded, flags) for flags in refused} == {ERRNO | errno.EPERM}
        assert {asked(without, flags) for flags in refused} == {ALLOW}


def test_other_numberings_are_unknown() -> None:
    program = seccomp.build_filter({}, "x86_64")
    x86_64, i386 = 0xC000003E, 0x40000003
    assert verdict(program, i386, 1) == ERRNO | errno.ENOSYS
    assert verdict(program, x86_64, 0x40000001) == ERRNO | errno.ENOSYS
    with pytest.raises(seccomp.UnknownMachine):
        seccomp.build_filter({}, "riscv64")


def test_no_file_gets_the_bits_that_change_who_runs_it(plain: Plain) -> None:
    column, architecture, program = plain
    creates, reads, temporary = 0o101, 0o2000000, 0o20200001  # O_CREAT | O_WRONLY, O_CLOEXEC, O_TMPFILE | O_WRONLY
    for name, place in {**seccomp.SETS_MODES, "open": 2, "openat": 3}.items():
        if (number := seccomp.NUMBERS[name][column]) is None:
            continue
        for mode, expected in ((0o755, ALLOW), (0o1777, ALLOW), (0o4755, ERRNO | errno.EPERM), (0o2755, ERRNO | errno.EPERM)):
            for flags in (creates, temporary):
                arguments = [0] * place + [mode]
                if name in seccomp.OPENS:
                    arguments[place - 1] = flags
                assert verdict(program, architecture, number, *arguments) == expected, (name, mode)
    opens = seccomp.NUMBERS["openat"][column]
    assert verdict(program, architecture, opens, 0, 0, reads, 0o7777) == ALLOW  # no mode is read there: it may be anything


def test_nobody_hides_what_it_has_open(plain: Plain) -> None:
    column, architecture, program = plain
    number, set_name, set_dumpable = seccomp.NUMBERS["prctl"][column], 15, 4
    assert [verdict(program, architecture, number, option) for option in (set_name, set_dumpable)] == [ALLOW, ERRNO]
