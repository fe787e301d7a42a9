"""The sockets go to a new engine, which takes over."""
