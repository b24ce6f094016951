"""Report: what is known of the units of a model, on one sheet, and what can be done."""
