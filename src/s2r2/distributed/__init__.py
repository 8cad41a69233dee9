"""Several processes as one run: starting them, where they meet, what they send each other."""
