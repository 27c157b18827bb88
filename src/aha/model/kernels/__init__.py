"""C kernels for a CPU: decoding whole models, and the small operations of training."""
