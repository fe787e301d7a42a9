"""How a peer is measured: a trial stands ready before it, takes turns with those of the other peers, and adds up."""
