"""The benchmark harness: what a proxy costs, against every peer and against none, on one machine in one run.

Follow a measurement:

    __main__.py    the command line: `python -m bench run`, `report`, `compare`
    run.py         rounds, and peers in turns; every cell checked, kept or marked as failed
    scenarios.py   what is measured: the list
    trials/        how: a trial of each peer, which takes turns; iperf3's JSON, read
    peers.py       what is measured against: how each proxy is started and stopped
    world.py       client, host and container as network namespaces
    load/          what runs at the two ends of a peer
      servers.py     in the container: echo, bulk, datagram counter
      forkserver.py  on the client: a fork for each load program
      programs.py    the load programs: exchanges, connections, bulk, datagrams
      pump.py        bulk TCP, at both ends
      batch.py       datagrams by the batch, at both ends
    usage.py       CPU and memory of a process tree
    stats.py       medians, their certainty, ratios round by round         (pure)
    results.py     one JSON file per run                                   (pure)
    report/        the table, whether two runs agree, plots

Figures are ratios first: on a busy virtual machine a figure means little, a ratio of two from one round much more.
"""
