"""What every room needs of the machine: files, locks, child processes, the terminal, compiled functions."""
