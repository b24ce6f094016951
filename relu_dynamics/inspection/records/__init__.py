"""Records: what is known of units over a training: definitions of dead, monitor, causes."""
