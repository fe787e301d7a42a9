"""What a person types: the subcommands.

    verbs.py       the table of subcommands and what they take                 (pure)
    dispatch.py    which one, and what it lacks
    parser.py      its command line, read
    help.py        `pyproxy help`, and the same text for `pyproxy -help`
    manual.py      man pages, made from the tables                             (pure)
    completion.py  `pyproxy completion`: scripts for shells, made from the tables
    extra.py       where the libraries come from that a subcommand needs

The engine, and what asks it:

    engine.py      `pyproxy engine`
    ask.py         a request to its control API
    ports.py       `pyproxy ports`
    top.py         `pyproxy top`
    drain.py       `pyproxy drain`
    tables.py      which columns and rows fit a terminal                       (pure)
    terminal.py    a terminal that is drawn on, and left as it was

The system it is installed in:

    install.py     `pyproxy install`
    uninstall.py   `pyproxy uninstall`
    changes.py     files and services: changed, or all of it taken back
    unit.py        the systemd unit                                            (pure)
    daemonjson.py  one key of dockerd's configuration                          (pure)
"""
