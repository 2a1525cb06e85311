"""Daemons on machines: engines that place workers, and what a supervisor wants of a daemon. Knows protocol only."""
