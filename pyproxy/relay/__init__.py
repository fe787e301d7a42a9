"""The data path.

It knows nothing of processes, dockerd, containers or HTTP. In the order in which a byte meets them:

    loop.py        the event loop, the limit on descriptors, reports of defects
    poller.py      the data path's epoll, one reader of that loop
    runqueue.py    work that was interrupted so that others have their turn
    server.py      what serves a port, made of settings and a socket
    listener.py    accepts clients in batches; survives running out of descriptors
    hooks.py       what listener, connection and relay call on one another
    connection.py  a client and its backend: dial, relay both ways, end
    stream.py      one direction of bytes: copy, then splice
    pipes.py       the pipes that splice needs
    messages.py    one direction of SCTP messages
    flush.py       the last bytes of a side that has been reset
    datagrams.py   UDP: clients' datagrams to their flows, and replies back
    batch.py       many datagrams received in one call
"""
