"""An IP address, and an address with a port: parse and format.

Pure: text in, text out. `_socket` is used for `inet_pton` alone; the `ipaddress` module would cost a start-up 3 ms of
the 8 that an empty interpreter takes.
"""

from __future__ import annotations

import _socket

from pyproxy.errors import FlagError

_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"


def parse_address(text: str, flag: str) -> str:
    """Return the address in its shortest form. A mapped address (`::ffff:1.2.3.4`) becomes the IPv4 address it is,
    as Go's net.ParseIP has it. A zone (`fe80::1%eth0`) is kept. FlagError names `flag`.
    """
    address, percent, zone = text.partition("%")
    try:
        if ":" not in address:
            if percent:
                raise OSError
            return _socket.inet_ntop(_socket.AF_INET, _socket.inet_pton(_socket.AF_INET, address))
        if not zone.isprintable():  # it goes into messages and lists; such an interface has a number too
            raise ValueError
        packed = _socket.inet_pton(_socket.AF_INET6, address)
    except (OSError, ValueError) as exc:
        raise FlagError(f"{flag} {text!r} is not an IP address: give one such as 127.0.0.1 or ::1") from exc
    if packed.startswith(_MAPPED_PREFIX):
        return _socket.inet_ntop(_socket.AF_INET, packed[12:])
    return _socket.inet_ntop(_socket.AF_INET6, packed) + percent + zone


def family_of(ip: str) -> int:
    """AF_INET or AF_INET6, for an address that `parse_address` returned."""
    return _socket.AF_INET6 if ":" in ip else _socket.AF_INET


def join_host_port(ip: str, port: int) -> str:
    """`127.0.0.1:80`, `[::1]:80`."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
