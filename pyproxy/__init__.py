"""A userland proxy for published container ports.

The root is what may be imported before dockerd has its answer: light, and nothing heavier than `_socket`. dockerd
starts its proxies one after the other and waits for each (see `__main__`).

    flags.py        the command line, in Go's flag syntax; the table of options (pure)
    config.py       a published port and its settings: frozen    (pure)
    endpoint.py     an address: parse and format                 (pure)
    bind.py         the host socket: bound here, or adopted from descriptor 4
    sockopts.py     socket options, the same on both sides
    dockerd.py      the answer to dockerd on descriptor 3
    signals.py      SIGINT, SIGTERM and SIGUSR1
    interpreter.py  the Python that runs us: isolated, and replaced while a port waits
    log.py          where messages go: stderr, or the system log
    ratelimit.py    how often a message may be said               (pure)
    errors.py       why a proxy could not start

The folders are the layers, and import only downwards (tests/test_layers.py):

    core/           decisions, without input and output
    relay/          the data path: follow one byte
    solo/           one process for one port
    engine/         one process for all ports, behind a stub each
    embed/          a port inside another program: `pyproxy.forward`
    cli/            what a person types

`__main__.py` starts one or the other.
"""

__version__ = "0.2.0"
__all__ = ["ForwardedPort", "StartError", "__version__", "forward"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyproxy.embed.forward import ForwardedPort, forward
    from pyproxy.errors import StartError


def __getattr__(name: str) -> object:
    """What other programs use, imported when it is asked for: nothing of it may delay dockerd's answer."""
    if name == "StartError":
        from pyproxy.errors import StartError

        return StartError
    if name in ("ForwardedPort", "forward"):
        from pyproxy.embed import forward

        return getattr(forward, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
