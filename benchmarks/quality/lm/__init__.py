"""A causal language model: experts on tasks that are scored exactly, as full fine-tunes, LoRA and sparse updates."""
