"""Backbones, their front ends, and the weights that belong to them."""
