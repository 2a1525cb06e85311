"""An experiment: what its file may say (`schema`), how it is read (`reading`) and written again (`writing`).

`sweep` makes several runs of one file, `checking` holds it against the plug-ins, `places` finds the line of
an error.
"""
