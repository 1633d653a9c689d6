"""without_io_uring.py ERRNO COMMAND [ARGUMENT ...]

Runs COMMAND where the three system calls of io_uring fail with ERRNO, as under a container's seccomp profile (EPERM)
or on a kernel that was built without it (ENOSYS).
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06

# io_uring_setup, io_uring_enter, io_uring_register: the same numbers on every architecture.
CALLS = (425, 426, 427)


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("HBBI", code, if_true, if_false, value)


def program(error):
    """Loads the number of the system call, then compares it with each of CALLS."""
    tests = [instruction(JUMP_IF_EQUAL, call, if_true=len(CALLS) - index) for index, call in enumerate(CALLS)]
    answers = [instruction(RETURN, SECCOMP_RET_ALLOW), instruction(RETURN, SECCOMP_RET_ERRNO | error)]
    return b"".join([instruction(LOAD_WORD, 0), *tests, *answers])


def forbid(error):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    code = program(error)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    filter_program = Program(len(code) // 8, code)
    steps = ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program)))
    for step in steps:
        if prctl(*step) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")


forbid(getattr(errno, sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
