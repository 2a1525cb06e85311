"""`flctl ui`: an experiment configured, run, watched and analysed in the terminal (Textual, the extra `ui`).

`form` reads the schema, `draft` is the experiment being edited, `launching` is its process, `watching` folds events,
`terminal_chart` draws: plain code, no Textual. The other rooms are the screens. The rest of `master` needs none of it.
"""
