"""What a person types: `pyproxy VERB`, all but the one published port that flags alone ask for.

dispatch.py    which verb, and what it needs
options.py     the verbs' flags, and the engine's
extra.py       where the libraries come from that it needs
engine.py      `pyproxy engine`
client.py      `pyproxy ports`, `top` and `drain`
tables.py      which columns and rows fit a terminal                       (pure)
top.py         a terminal that is drawn on, and left as it was
install.py     `pyproxy install` and `uninstall`
unit.py        the systemd unit                                            (pure)
daemonjson.py  one key of dockerd's configuration                          (pure)
"""
