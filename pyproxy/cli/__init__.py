"""What a person types: the subcommands.

`pyproxy` without a subcommand serves one published port, which is `__main__`'s and `solo`'s.

    dispatch.py    which subcommand, and the libraries that it needs
    options.py     the subcommands' flags, and the engine's
    extra.py       how to install missing libraries
    engine.py      `pyproxy engine`
    client.py      `pyproxy ports`, `top` and `drain`
    tables.py      which columns and rows fit a terminal                       (pure)
    top.py         `pyproxy top` on a terminal
    install.py     `pyproxy install` and `uninstall`
    unit.py        the systemd unit                                            (pure)
    daemonjson.py  one key of dockerd's configuration                          (pure)
"""
