"""System calls that fail, one at a time: what the daemon makes of it."""
