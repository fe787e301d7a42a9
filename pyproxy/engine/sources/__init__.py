"""Who asks for a port, and how: stubs that dockerd has started. (The control API calls the publisher directly.)"""
