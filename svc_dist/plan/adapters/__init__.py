"""What a merge writes as a LoRA adapter: which tensors are pairs of factors, and the configuration that says so."""
