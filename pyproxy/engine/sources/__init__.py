"""Who asks the publisher for a port, and how.

    stubs.py     the shell scripts that dockerd has started: each request, and its answer
    requests.py  the lines that they write                                             (pure)
    stub.py      one of them, as the kernel shows it: is it what it says, and its descriptor 4
    reserve.py   the descriptors that a look at one takes
    nudge.py     a signal that a shell may have missed
    api.py       a person, or a program, by the control API: ports that no process holds

A source asks the publisher, and hears as an observer of what becomes of its ports.
"""
