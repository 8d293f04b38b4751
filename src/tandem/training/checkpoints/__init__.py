"""Checkpoints: saved meanwhile, verified, loaded by any number of workers."""
