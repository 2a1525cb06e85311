"""The worker daemon: waits for a master, runs the cohorts it is given on device pools, forgets everything else."""
