"""A run, shown and compared."""
