"""`python -m benchmarks --quick | --full`: what flspan costs on this machine, against the best loop one writes by hand."""
