"""An index on disk: its rows, its versions, what is known to be gone."""
