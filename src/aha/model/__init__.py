"""The policy: loading it, LoRA, and a Llama-like block with its own kernels."""
