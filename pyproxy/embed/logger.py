"""Messages about an embedded port, to the program's own `logging`: logger `pyproxy`."""

from __future__ import annotations

import logging

from pyproxy.log import ERROR, INFO, WARNING, Log

_LEVELS = {ERROR: logging.ERROR, WARNING: logging.WARNING, INFO: logging.INFO}

_logger = logging.getLogger("pyproxy")


class Logger(Log):
    """As `Log`, which says how often one kind of message is repeated."""

    def _write(self, severity: int, text: str) -> None:
        _logger.log(_LEVELS[severity], "%s: %s", self._name, text)
