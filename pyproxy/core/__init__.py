"""Decisions: plain data in, plain data out.

No input and output, and no clock: `now` is an argument.

    ending.py      half-close and reset: what to do next
    flows.py       which UDP flow, how long, which one goes first
    counters.py    what went through
    cmsg.py        packet information and SCTP's, as bytes
    gso.py         which datagrams leave together
    fairness.py    who makes way for whom
    load.py        when another process is needed, and whom to move there
    busypoll.py    whether to ask again before sleeping
"""
