"""Benchmarks of the figures that the project promises; ``python -m benchmarks`` runs all."""
