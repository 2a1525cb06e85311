"""The master: round loop, dispatch, dashboard and runs. flmaster and flctl."""
