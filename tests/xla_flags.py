"""XLA flags of the tests that only some of the supported versions of jaxlib know."""

import importlib.metadata

# Later ones end at a flag that they do not know.
NO_FUSION_EMITTERS = (
    "--xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else None
)
