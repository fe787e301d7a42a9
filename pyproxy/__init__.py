"""A userland proxy for published container ports.

Follow one byte. The files, in the order in which it meets them:

    flags.py       the command line, in Go's flag syntax        (pure)
    published.py   a published port: protocol and two addresses (pure)
    bind.py        the host socket: bound here, or adopted from descriptor 4
    parent.py      the answer to dockerd on descriptor 3
    tune.py        socket options, the same on both sides
    signals.py     SIGINT, SIGTERM and SIGUSR1
    solo.py        one published port's life, from its first client to the stop
    workers.py     more processes for a port that keeps one busy
    load.py        when another is needed, and whom to move         (pure)
    migrate.py     moving live connections to another process
    poller.py      the data path's epoll, one reader of the asyncio loop
    runqueue.py    turns that were cut short in favour of others
    busypoll.py    whether to ask again before sleeping          (pure)
    server.py      makes what serves a port, of settings and a socket
    listener.py    accept clients in batches; survive running out of descriptors
    connection.py  a client and its backend: dial, relay both ways, end
    ending.py      half-close and reset: what to do next        (pure)
    flush.py       the last bytes of a side that has been reset
    stream.py      one direction of bytes: copy, then splice
    pipes.py       the pipes that splice needs
    fairness.py    who makes way for whom                        (pure)
    messages.py    one direction of SCTP messages
    datagrams.py   UDP: clients' datagrams to their flows, and replies back
    batch.py       what has come, many datagrams in one call
    flows.py       which flow, how long, which one goes first   (pure)
    trains.py      which datagrams leave together               (pure)
    ancillary.py   packet information and SCTP's, as bytes      (pure)
    counters.py    what went through
    log.py         where messages go: stderr, or the system log
    interpreter.py the Python that runs us: isolated, replaced, started again
    errors.py      why a proxy could not start

`bin/pyproxy` starts Python away from the environment's, by `bin/pyproxy-python`; `__main__.py` ties the files together;
`engine/` is the other way to run the same data path, for all ports in one process.
Until dockerd has its answer nothing heavier than `_socket` is imported:
dockerd starts its proxies one after the other and waits for each (see `__main__`).
"""

__version__ = "0.1.0"
