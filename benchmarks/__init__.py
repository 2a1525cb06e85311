"""`python -m benchmarks --quick | --full`: what flspan costs here, against the best loop one writes by hand."""
