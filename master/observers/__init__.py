"""What listens to a run: text log, JSON lines, dashboard. None of them can change it."""
