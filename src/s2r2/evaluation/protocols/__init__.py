"""What is asked of an encoder: neighbors and retrieval, probes, few labels, fine-tuning, held-out views."""
