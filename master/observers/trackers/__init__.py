"""Trackers, one file each, named as `--track` and the optional extra name them (`pip install 'flspan[wandb]'`).

A file has `open_run(started, settings)`, which gives a `TrackedRun` (`master.observers.tracking`), and imports its
package at its top: nobody who does not ask for it needs it.
"""
