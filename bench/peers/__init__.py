"""What is measured against: how each proxy is started before the container, and stopped.

`direct` and `dnat` are no proxies: the client speaks to the container, or the kernel rewrites its packets. Every
other peer runs on the host namespace, new for each round of a scenario, and is ended with it.

    peer.py          a peer; how a program is started and ended
    docker_proxy.py  docker-proxy, and whatever has its command line: pyproxy too
    stub.py          pyproxy's stub, before an engine
    unproxied.py     direct and dnat
    others.py        socat, haproxy, nginx, systemd-socket-proxyd
    known.py         the list of all
"""
