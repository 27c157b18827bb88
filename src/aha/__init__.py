"""aha: reproduce DeepSeek-R1-Zero's "aha moment" with GRPO on one machine."""

__version__ = "0.1.0"
