"""Who asks for a port, and how: stubs that dockerd has started. (The control API asks the publisher by itself.)"""
