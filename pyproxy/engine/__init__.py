"""The engine: one process that serves every published port of a host, behind the contract with dockerd.

dockerd starts `bin/pyproxy-stub` for each port, a shell script that costs about 0.13 MB and waits. Follow one port:

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

- The stub alone answers dockerd, on descriptor 3, after the engine's yes. An engine that slept through a request can
  therefore not answer a second time for a stub that has given up on it; and a port that cannot be had is reported by
  pyproxy itself, which the stub then becomes.
- A stub that becomes pyproxy writes `solo` first. The engine drops what it has of that port, if it ever wakes up.
- Requests outlive the engine: a stub that finds its engine gone writes again into the FIFO it still holds open, and
  the next engine finds the lines waiting there.
- A parked stub that is told no serves its port itself: an engine has taken over, and cannot serve that one.
- A stop is `stop`, then the engine's copy of the socket is closed, then the signal, then the stub's exit: dockerd may
  give the port to somebody else at that moment.

Needs nothing of `pyproxy`'s own but the data path, which knows nothing of it.
"""
