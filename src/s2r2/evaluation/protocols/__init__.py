"""What is asked of an encoder: neighbours and retrieval, probes, few labels, fine-tuning, held-out views."""
