"""Forecasts: how probably a unit comes back, by replaying the step of a user."""
