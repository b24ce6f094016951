"""relu_dynamics: why did this ReLU unit die, and will it come back?"""
