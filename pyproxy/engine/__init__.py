"""The engine: one process that serves every published port of a host, behind the contract with dockerd.

dockerd starts `bin/pyproxy-stub` for each port, a shell script that takes about 0.13 MB and waits. In the order in
which one port meets them:

    rundir.py      the run directory: who may use it, and what lies in it
    sources/       who asks for a port: stubs, or a person by the control API
    publisher.py   publish, unpublish, drain; and who hears of it
    port.py        one published port being served
    ports.py       all of them, by name and by holder
    slices.py      long work in short steps
    engine.py      all of that together
    handover/      the sockets go to a new engine, which takes over
    api.py         HTTP on a UNIX socket: what is served, and how it goes
    openapi.py     what that answers, for people and programs                  (pure)
    metrics.py     what is served, and how it goes, for Prometheus
    notify.py      what systemd is told

The run directory has two FIFOs. Into `requests` stubs write one line each time: `serve`, `stop` or `solo`, the process
id, and the command line they were started with. The engine answers by a signal: SIGUSR1 is yes, SIGUSR2 is no. To wait
for it a stub starts `sleep` and waits for that, which POSIX has a trapped signal interrupt; no answer before the sleep
has ended is the same as no. A shell cannot trap a signal that was ignored when it was started: such a stub starts once
more, without (`env --default-signal`), or becomes pyproxy. `alive` carries nothing: only engines hold its write end,
stubs wait in `read`, and end of file tells every stub at once, whatever ended the engine, that there is none.

Who decides what:

- The stub alone answers dockerd, on descriptor 3, after the engine's yes. So an engine that hung during a request
  cannot answer a second time, for a stub that has given up on it. And a port that cannot be served is reported by
  pyproxy itself, which the stub then becomes.
- A stub that becomes pyproxy writes `solo` first. An engine that hung drops what it has of that port when it goes on.
- Requests outlive the engine: a stub that finds its engine gone writes again into the FIFO it still holds open, and
  the next engine finds the lines waiting there.
- A stub that waits after a yes, and is told no, serves its port itself: a new engine has taken over, and cannot serve
  that port.
- The order of a stop: the stub writes `stop`, the engine closes its copy of the socket and sends the signal, the stub
  exits. At that moment dockerd may give the port to somebody else.

The engine uses the data path, which knows nothing of it.
"""
