"""A published port inside another asyncio program: what `pyproxy.forward` gives. The program's process serves it, in
the event loop that runs; pyproxy's own processes, signals and system log stay out of it.

    forward.py     the context manager, and the port while it is served
    logger.py      messages to the program's `logging`
"""
