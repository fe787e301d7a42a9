"""The benchmark harness: what a proxy costs, against every peer and against none, on one machine in one run.

Follow a measurement:

    __main__.py    the command line: `python -m bench run`, `report`, `compare`
    run.py         rounds, and peers in turns; every cell checked, kept or marked as failed
    rounds.py      who takes part in which round and turn, and which ratio needs more   (pure)
    scenarios.py   what is measured: the list
    trials/        how: a trial of each peer, which takes turns
    peers/         what is measured against: how each proxy is started and stopped
    world.py       client, host and container as network namespaces
    load/          what runs at the two ends: load programs, and the container's servers
    usage.py       CPU and memory of a process tree
    stats.py       medians, their certainty, ratios round by round                      (pure)
    results.py     one JSON file per run
    report/        the table, in Markdown too; plots; whether two runs agree

Each folder's `__init__.py` is the map of its own files. `results/` keeps the run that the README quotes, `NOTES.md`
tells what was tried and measured.

Figures are ratios first: on a busy virtual machine a figure means little, a ratio of two from one round much more.
"""
