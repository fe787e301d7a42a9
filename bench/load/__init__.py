"""What runs at the two ends of a peer.

In the container:

    servers.py      echo, bulk, datagram counter

On the client:

    forkserver.py   runs load programs, each in a fork of its own
    programs.py     the load programs by their names
    harness.py      the harness, as a load program sees it
    timed.py        those that time what they do, in turns
    exchange.py     request and response on open connections
    beside_bulk.py  the same, while another connection sends all it can
    connect.py      connections that carry one request each
    ping.py         datagram and reply
    probe.py        the first message through a peer
    hold.py         connections that stay open, as many as are served
    bulk.py         streams that send all they can
    datagrams.py    datagrams one way
    sockets.py      their sockets

At both:

    pump.py         bulk TCP
    batch.py        datagrams by the batch
"""
