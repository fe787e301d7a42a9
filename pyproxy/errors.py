"""Why a proxy could not start: the one error that reaches the user before there is anything to serve."""


class StartError(Exception):
    """The published port cannot be served. The text is one line that names the flag or address and the mend.

    The same text goes to a person's stderr and to dockerd (`parent.answer_failure`), and ends the process with
    `exit_status`.
    """

    exit_status = 1


class FlagError(StartError):
    """The command line itself cannot be read: an unknown flag, a missing value. Go's flag package exits 2 for these."""

    exit_status = 2
