"""The answer to dockerd: descriptor 3 is the write end of its status pipe.

dockerd reads two bytes once: `0\\n` is success. Anything else is a failure, and after `1\\n` it reads the reason to
end of file, so the descriptor is closed as soon as it is answered. Run by hand, descriptor 3 is whatever the shell
left there: only a pipe open for writing is taken for a parent's.
Source: moby, cmd/docker-proxy/main_linux.go and portmapper's proxy start, 20.10 to 29.
"""

from __future__ import annotations

import os
import stat

STATUS_FD = 3  # the first of exec.Cmd's ExtraFiles


def status_pipe() -> int | None:
    """Return descriptor 3 if a parent waits on it, made close-on-exec; else None. Call before opening anything."""
    try:
        mode = os.fstat(STATUS_FD).st_mode
        if not stat.S_ISFIFO(mode):
            return None
        os.write(STATUS_FD, b"")  # EBADF if it is open for reading alone; to ask fcntl(2) would import it: 0.2 ms
    except OSError:
        return None
    os.set_inheritable(STATUS_FD, False)
    return STATUS_FD


def answer_ready(pipe: int | None) -> bool:
    """Tell the parent that the port is served. False if it no longer waits: nobody will ever stop us, so do not stay.

    dockerd gives up after 16 s and, from 28.0 on, does not kill the proxy that was late.
    """
    return _answer(pipe, b"0\n")


def answer_failure(pipe: int | None, reason: str) -> None:
    """Tell the parent why not; it shows the reason to the user of `docker run`."""
    # An argument that is not UTF-8 comes back as the escapes it was quoted with.
    _answer(pipe, b"1\n" + reason.encode(errors="backslashreplace"))


def _answer(pipe: int | None, message: bytes) -> bool:
    if pipe is None:
        return True
    try:
        os.write(pipe, message)  # one write: dockerd does one read
    except BrokenPipeError:
        return False
    finally:
        os.close(pipe)
    return True
