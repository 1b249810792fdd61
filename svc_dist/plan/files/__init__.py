"""The files beside the weights: configs, tokenizers, templates."""
