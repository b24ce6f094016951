"""Reading: what a program rectifies, whose entries feed it, and what its units did in a call."""
