"""Sweeps: many runs. A plan refuses what cannot run, then blocks are trained, stored and joined."""
