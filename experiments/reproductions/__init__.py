"""Published numbers on dead ReLU units, measured again: one file per study, each an experiment of
its name.

born_dead            P(a new network is constant) against width and depth (Lu et al.)
collapse             P(a trained network is constant), He's and the asymmetric initialization
target_variance      P(a unit dies) against the targets' variance and momentum (Arnekvist et al.)
layers               dead units per layer before and after training, and who recovers (UvA tutorial)
continual            dead units under tasks that keep changing (Dohare et al.)
autoencoder_birth    P(a latent is silent on all tokens) at initialization (setting of Simon et al.)
boundary             the image of the recovery boundary, with zooms (after Sohl-Dickstein)

Shared: `published` (sources, the table of published numbers beside ours, verdicts), `drawing`,
`box_counting` of images, exact `slopes`.
"""
