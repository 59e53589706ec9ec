"""Run as a program: prepares a child process, then becomes it. `launch.py PARENT [--as-nobody] COMMAND ARG …`

This is a program of its own because the alternative, Python code between fork and exec, may hang or crash in a parent
that has threads, and gRPC has many.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def die_with_parent() -> None:
    """This process shall be killed when the thread that started it ends, however it ends (on Linux)."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become_nobody() -> None:
    """Gives up being root, which PostgreSQL refuses to run as, but keeps the right to go through directories that only
    root can enter: a checkout or a temporary directory often lies in one, and no permission has to be changed so."""
    nobody = pwd.getpwnam("nobody")
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    mask = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable: low words, high words
    if ctypes.CDLL(None).capset(header, data) != 0:
        sys.exit("cannot keep the right to enter directories; run this as a user other than root")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)


def _prctl(option: int, *args: int) -> None:
    given = [ctypes.c_ulong(value) for value in (*args, 0, 0, 0, 0)[:4]]
    if ctypes.CDLL(None).prctl(option, *given) != 0:
        sys.exit(f"prctl {option} failed")


def main() -> None:
    """Prepares and becomes."""
    parent, *command = sys.argv[1:]
    if command[0] == "--as-nobody":
        command = command[1:]
        try:
            become_nobody()
        except OSError as error:
            sys.exit(f"cannot become the user nobody ({error}); run this as a user other than root")
    die_with_parent()  # last: a change of user forgets it
    if os.getppid() != int(parent):
        sys.exit("the parent ended before its child could be told to end with it")
    os.execvp(command[0], command)  # noqa: S606  # the whole purpose


if __name__ == "__main__":
    main()
