"""Solo: one process, one published port.

The order is that of a port's life:

    serve.py       from the first client to the stop
    workers.py     more processes for a port that keeps one busy
    migrate.py     moving live connections to another process
"""
