"""Engine: one run. A config, a task and a key in; every pre-activation's statistics out.

`step.train_step` is the verb; `training.run` scans it, or the step that it is handed. Tables of
activations, initializers, normalizations, optimizers and tasks hold what may vary, one row each."""
