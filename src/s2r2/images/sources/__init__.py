"""Where images come from: folders, archives, manifests, addresses and data sets, with their names and labels."""
