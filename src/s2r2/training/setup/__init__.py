"""Before the first step: the request is checked, photos are opened, and what the run will do is announced."""
