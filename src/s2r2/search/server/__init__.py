"""The search page: a small web server for one person's photos, and what it answers."""
