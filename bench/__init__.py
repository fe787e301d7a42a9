"""The benchmark harness: what a proxy costs, against every peer and against none, on one machine in one run.

Follow a measurement:

    __main__.py    the command line: `python -m bench run`, `report`, `compare`
    run.py         rounds, and peers in turns; every cell checked, kept or marked as failed
    scenarios.py   what is measured: the list
    trials.py      how: a trial of each peer, which takes turns
    peers.py       what is measured against: how each proxy is started and stopped
    world.py       client, host and container as network namespaces
    servers.py     what runs in the container: echo, bulk, datagram counter
    forks.py       what runs on the client: a fork for each load program
    load.py        the load programs: exchanges, connections, bulk, datagrams
    bulk.py        bulk TCP, at both ends
    batch.py       datagrams by the batch, at both ends
    iperf.py       iperf3's JSON, read                                     (pure)
    usage.py       CPU and memory of a process tree
    stats.py       medians, their certainty, ratios round by round         (pure)
    results.py     one JSON file per run                                   (pure)
    report.py      the table, for a terminal and in Markdown
    compare.py     whether two runs agree
    plots.py       PNG and SVG

Figures are ratios first: on a busy virtual machine a figure means little, a ratio of two from one round much more.
"""
