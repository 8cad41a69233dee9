"""A run on disk: its folder, checkpoints, figures, how it is resumed, and whose code it may run."""
