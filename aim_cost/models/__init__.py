"""Models and workloads: dimensions, images, towers, decoders and their ops."""
