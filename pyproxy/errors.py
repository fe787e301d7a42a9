"""Errors as users read them: why a proxy could not start, and the kernel's error numbers in words."""

import errno
import os

# What accept, socket or connect say when this process, its user or the machine has no more to give.
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class StartError(Exception):
    """The published port cannot be served. The text is one line that names the flag or address and the fix.

    The same text goes to a person's stderr and to dockerd (`dockerd.answer_failure`), and ends the process with
    `exit_status`.
    """

    exit_status = 1


class FlagError(StartError):
    """What was typed is wrong: an unknown flag, no value, one out of range. Go's flag package exits 2 too."""

    exit_status = 2


def in_words(error: int | None) -> str:
    """An errno in the kernel's words, as a sentence's middle has them. None: an error without a number."""
    return os.strerror(error).lower() if error else "unknown error"


def plain(text: str) -> str:
    """`text` from outside, safe to show: what does not print (control characters, line ends, changes of direction,
    bytes that were no UTF-8) is spelled out, so that it can neither add a line nor speak to a terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
