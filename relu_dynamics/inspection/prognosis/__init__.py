"""Prognosis: what can be proved of a dead unit, from programs run on intervals."""
