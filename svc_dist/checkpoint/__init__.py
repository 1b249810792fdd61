"""What a model holds: tensors, their shapes and places, adapters, tokenizers. No merging."""
