"""The data path.

It knows no process, no dockerd, no container and no HTTP. One byte meets, in this order:

    loop.py        the event loop, and what a process needs that serves many
    poller.py      the data path's epoll, one reader of that loop
    runqueue.py    turns that were cut short in favour of others
    server.py      what serves a port, made of settings and a socket
    listener.py    accepts clients in batches; survives running out of descriptors
    hooks.py       what the parts ask of one another
    connection.py  a client and its backend: dial, relay both ways, end
    stream.py      one direction of bytes: copy, then splice
    pipes.py       the pipes that splice needs
    messages.py    one direction of SCTP messages
    flush.py       the last bytes of a side that has been reset
    datagrams.py   UDP: clients' datagrams to their flows, and replies back
    batch.py       what has come, many datagrams in one call
    syscalls.py    recvmmsg(2) and others that Python lacks: the one that uses ctypes
"""
