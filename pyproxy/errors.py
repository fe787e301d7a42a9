"""Errors as users read them: why a proxy could not start, and the kernel's error numbers in words."""

import errno
import os

# What accept, socket or connect say when this process, its user or the machine has no more to give.
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class StartError(Exception):
    """The published port cannot be served. The text is one line that names the flag or address and the mend.

    The same text goes to a person's stderr and to dockerd (`parent.answer_failure`), and ends the process with
    `exit_status`.
    """

    exit_status = 1


class FlagError(StartError):
    """The command line itself cannot be read: an unknown flag, a missing value. Go's flag package exits 2 for these."""

    exit_status = 2


def in_words(error: int | None) -> str:
    """An errno in the kernel's words, as a sentence's middle has them. None: an error without a number."""
    return os.strerror(error).lower() if error else "unknown error"
