"""Runs on other people's machines: a SLURM cluster, Amazon SageMaker."""
