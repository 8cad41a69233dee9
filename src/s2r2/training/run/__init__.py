"""A run on disk: its folder, checkpoints, going on with it, and whose code it may run."""
