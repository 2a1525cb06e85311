"""How local work is computed: cohorts on pool slots, and what of it crosses the network."""
