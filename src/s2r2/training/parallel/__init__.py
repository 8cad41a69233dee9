"""One step over several processes: shards, exchanged tensors, statistics of batch norm."""
