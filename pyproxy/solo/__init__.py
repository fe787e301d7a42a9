"""Solo: one process, one published port.

In the order in which a port meets them:

    serve.py       from the first client to the stop
    workers.py     more processes for a port that keeps one busy
    migrate.py     moving live connections to another process
"""
