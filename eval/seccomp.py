"""The system calls that a model-written program may not make, as the filter program that the Linux kernel loads.

Namespaces alone leave doors open: a program may make namespaces of its own and mount file systems in them, hold memory
in files that have no name (which no limit on a process counts), or talk to the host through socket families that know
no network namespace, such as AF_VSOCK. Refusing some forty calls shuts these doors; none of them is needed by Python's
standard library. The filter is classic BPF, written by hand here because it is a plain list and needs no library.
Limit: x86_64 and aarch64 on Linux.
"""

from __future__ import annotations

import errno
import platform
import struct

# name: (number on x86_64, number on aarch64)
REFUSED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "settimeofday": (170, 170),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# name: (x86_64, aarch64) of the three calls that are judged by their arguments or answered in another way
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH of the kernel

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: all bound to the program's own empty network
_X32 = 0x40000000  # x86_64's second set of numbers for the same calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF operations
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


class SeccompError(OSError):
    """This machine's architecture has no table of system calls here."""


def _operation(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)  # struct sock_filter


def _refuse(number: int, error: int) -> bytes:
    return _operation(_EQUAL, number, 0, 1) + _operation(_RETURN, _ERROR | error)


def filter_program(machine: str | None = None) -> bytes:
    """The filter for this machine, as bwrap reads it from `--seccomp`. Raises `SeccompError` on other architectures."""
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise SeccompError(
            f"no system call table for {machine!r}: model-written programs run on {' and '.join(_ARCHITECTURES)} only"
        )
    column, architecture = _ARCHITECTURES[machine]
    program = [
        _operation(_LOAD, _ARCHITECTURE),
        _operation(_EQUAL, architecture, 1, 0),
        _operation(_RETURN, _KILL),
        _operation(_LOAD, _NUMBER),
        _operation(_AT_LEAST, _X32, 0, 1),
        _operation(_RETURN, _ERROR | errno.ENOSYS),
    ]
    program += [_refuse(numbers[column], errno.EPERM) for numbers in REFUSED.values()]
    # its flags lie in memory that a filter cannot read; the C library then falls back to clone
    program.append(_refuse(_CLONE3[column], errno.ENOSYS))
    program += [
        _operation(_EQUAL, _CLONE[column], 0, 4),
        _operation(_LOAD, _FIRST_ARGUMENT),
        _operation(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _operation(_RETURN, _ERROR | errno.EPERM),
        _operation(_RETURN, _ALLOW),
        _operation(_EQUAL, _SOCKET[column], 0, 2 + len(_SOCKET_FAMILIES)),
        _operation(_LOAD, _FIRST_ARGUMENT),
    ]
    program += [
        _operation(_EQUAL, family, len(_SOCKET_FAMILIES) - place, 0) for place, family in enumerate(_SOCKET_FAMILIES)
    ]
    program += [_operation(_RETURN, _ERROR | errno.EAFNOSUPPORT), _operation(_RETURN, _ALLOW)]
    return b"".join(program)
