"""How a peer is measured: a trial stands ready before it, takes turns with those of the other peers, and adds up.

    trial.py        a trial, by turns or all at once
    timed.py        exchanges, connections and pings, timed by their load program
    throughput.py   what goes on by itself: counted where it arrives
    bulk.py         TCP streams
    iperf.py        one TCP stream by iperf3, and its JSON, read
    datagrams.py    datagrams at saturation, each way
    burst.py        many datagrams at once
    connections.py  how many connections a peer holds, and what each costs in memory
    spawn.py        a proxy started as dockerd does, and ended
    start.py        from spawn to answer
    publish.py      many published ports

What a virtual machine's processor does in a second wanders within tenths of one, and by more than peers differ. So
peers are measured in turns of some hundredths of a second, one after the other and again, with all of them running and
their connections open: what moves one moves its neighbours in time as well, and a ratio is what it was not moved by.
"""
