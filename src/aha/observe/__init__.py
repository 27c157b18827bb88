"""Watching a run: console, TensorBoard, samples."""
