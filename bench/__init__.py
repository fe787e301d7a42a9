"""The benchmark harness: what a proxy costs, against every peer and against none, on one machine in one run.

Follow a measurement:

    __main__.py    the command line: `python -m bench run`, `python -m bench report`
    run.py         peers and rounds interleaved; every cell checked, kept or marked as failed
    scenarios.py   what is measured: the list
    peers.py       what is measured against: how each proxy is started and stopped
    world.py       client, host and container as network namespaces
    servers.py     what runs in the container: echo, datagram counter
    load.py        what runs on the client: exchanges, connections, datagrams
    iperf.py       iperf3's JSON, read                                     (pure)
    usage.py       CPU and memory of a process tree
    stats.py       medians, spread, ratios round by round                  (pure)
    results.py     one JSON file per run                                   (pure)
    report.py      the table, for a terminal and in Markdown
    plots.py       PNG and SVG

Figures are ratios first: on a busy virtual machine a figure means little, a ratio of two from one round much more.
"""
