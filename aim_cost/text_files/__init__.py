"""Text files that people write, read so that nothing in them is taken for something else."""
