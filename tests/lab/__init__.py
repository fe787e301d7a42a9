"""The lab: the reference host and its neighbours, out of network namespaces.

                 outside 10.0.0.1, 10.0.0.97          the rules of tests/lab/rules, loaded by iptables-restore
                    |
                  eth0 10.0.0.27
    +-------------- host ---------------------+
    |  docker0 172.17.0.1    br-b5a3f4778f2a 172.19.0.1
    +------|-----------------------|----------+
        other 172.17.0.2     daemon1 172.19.0.2, daemon2 172.19.0.3

`namespaces.py` makes machines and runs programs in them; `host.py` lays out the reference host; `exchange.py` moves
messages between two machines with nc. `python -m tests.lab` runs the demonstration of README's `make demo`.
"""
