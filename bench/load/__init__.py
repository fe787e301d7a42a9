"""What runs at the two ends of a peer: load programs on the client, servers in the container."""
