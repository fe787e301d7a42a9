"""The sockets go to a new engine, which takes over: `pyproxy engine --replace`, and what SIGHUP starts.

    new      hello
    present  one message per port: its arguments and counts, its listening socket (none if it is drained), its stub's
             pidfd
    present  what it had read of requests, in pieces
    present  the end: its counts, the lock, and the sockets to engines before it that drain still
    new      serving       both accept now, from the same sockets: nobody is refused
    present  yours         it has closed its copies, and drains its connections
    ...                    what it says of those: `predecessor.py`

Only after `yours` does the new engine take requests, so a stub that stops meanwhile waits for it, and finds its port
held by nobody. Until `serving` the present engine can go on as if nothing had happened, and does, if the new one fails.
It serves while it speaks, however slowly the other reads; only commands that change ports are refused meanwhile.

A port that the new engine cannot serve is closed there, and its stub has it served anew, or does so itself, as soon as
the present engine has closed its copy.
Messages are SOCK_SEQPACKET: each arrives whole, with its descriptors (unix(7), SCM_RIGHTS).

    conversation.py  words between two engines, and how long one waits for them
    new.py           the new engine's side
    present.py       the present engine's side
    messages.py      what it says of each port, and of itself
    reporting.py     what it says while it drains
    predecessor.py   the same, as the new engine hears it
"""
