"""Figures of runs: what is drawn (`curves`, `theory`, `overlays`), how (`style`, `figure`), and its data (`table`).

Only `figure` imports matplotlib. Nothing is interpolated: a point is a round in which all runs of a curve measured both
of its metrics.
"""
