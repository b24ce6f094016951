"""Models: pure functions from parameters and inputs to outputs and every pre-activation.

The only file that imports flax. `apply` returns what it sees instead of tapping it: the
pre-activation z of every hidden layer is a normal return value, and jit prunes what nobody reads.

Axes: `batch` examples, `units` of one hidden layer. Layers are counted from 1 in names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relu_dynamics import probes
from relu_dynamics.config import Config
from relu_dynamics.tasks import TASKS, input_dimension

Params = Any  # a tree of arrays: dicts by layer, then by name

PRELU_SLOPE = 0.25  # at step 0; He et al. 2015, arXiv 1502.01852


def _prelu(z: jax.Array, slope: jax.Array | float = PRELU_SLOPE) -> jax.Array:
    return jnp.where(z > 0, z, slope * z)


ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    # jax.nn.relu has derivative 0 at 0; maximum(x, 0) would have 0.5 and revive units at z = 0.
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "prelu": _prelu,  # with a learned slope a unit, a parameter "slope_LAYER"
    # Both signs of z as two outputs (Shang et al. 2016, arXiv 1603.05201): twice the fan-in above.
    "crelu": lambda z: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], axis=-1),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}

HOMOGENEOUS = ("relu", "leaky_relu", "identity")  # f(z) = f'(z) z

INITIALIZERS: dict[str, Callable] = {
    "he_normal": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "he_uniform": nn.initializers.he_uniform(),
    "xavier_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "xavier_uniform": nn.initializers.xavier_uniform(),
    "lecun_normal": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
    "orthogonal": nn.initializers.orthogonal(2**0.5),
    # These three also set the biases, see `initialize`.
    "randomized_asymmetric": nn.initializers.zeros,
    "data_dependent": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    # U(-1, 1) / sqrt(fan_in) for weights and biases, the default of PyTorch's linear layers.
    "torch_default": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "too_small": nn.initializers.variance_scaling(0.02, "fan_in", "normal"),
    "too_large": nn.initializers.variance_scaling(200.0, "fan_in", "normal"),
}

GROUP_SIZE = 4  # units a group in "group" normalization
NORM_EPSILON = 1e-6


class Forward(NamedTuple):
    """What one forward pass shows."""

    output: jax.Array  # [batch, outputs]
    preactivations: tuple[jax.Array, ...]  # one [batch, units] a hidden layer: what enters it
    inputs: tuple[jax.Array, ...]  # one [batch, fan_in] a hidden layer: what its weights see


class MLP(nn.Module):
    """A multilayer perceptron of any depth and width; one unit is its smallest case.

    A network of your own is a module with the same fields that returns a `Forward` and names its
    hidden layers' parameters as this one (`layer_name`); a row in `MODELS` gives it a name.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: str
    initializer: str
    normalization: str
    output_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        kernel_init = INITIALIZERS[self.initializer]
        preactivations, inputs = [], []
        for layer, width in enumerate(self.hidden, start=1):
            inputs.append(x)
            z = nn.Dense(width, kernel_init=kernel_init, name=layer_name(layer))(x)
            z = self._normalize(layer, z)
            preactivations.append(z)
            x = self.connect(x, self._activate(layer, z))
        output = nn.Dense(
            self.outputs, kernel_init=kernel_init, use_bias=self.output_bias, name="output"
        )(x)
        return Forward(output, tuple(preactivations), tuple(inputs))

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """What a layer hands up, from what it got and what its units gave."""
        return active

    def _activate(self, layer: int, z: jax.Array) -> jax.Array:
        if self.activation != "prelu":
            return ACTIVATIONS[self.activation](z)
        constant = nn.initializers.constant(PRELU_SLOPE)
        return _prelu(z, self.param(slope_name(layer), constant, (z.shape[-1],))[None, :])

    def _normalize(self, layer: int, z: jax.Array) -> jax.Array:
        name = norm_name(layer)
        if self.normalization == "weight":
            # Salimans & Kingma 2016, arXiv 1602.07868.
            kernel = self.get_variable("params", layer_name(layer))["kernel"]
            norm = jnp.sqrt(jnp.sum(kernel**2, axis=0))
            scale = self.param("scale_" + name, nn.initializers.ones, (z.shape[-1],))
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            return z * (scale / norm)[None, :] + shift[None, :]
        if self.normalization == "batch":
            # Statistics of the batch at hand, always (training mode): no running averages, so
            # that a forward pass stays a pure function of parameters and inputs.
            scale = self.param("scale_" + name, nn.initializers.ones, (z.shape[-1],))
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            mean, variance = z.mean(0, keepdims=True), z.var(0, keepdims=True)
            normal = (z - mean) * jax.lax.rsqrt(variance + NORM_EPSILON)
            return normal * scale[None, :] + shift[None, :]
        if self.normalization == "layer":
            return nn.LayerNorm(epsilon=NORM_EPSILON, use_fast_variance=False, name=name)(z)
        if self.normalization == "group":
            groups = nn.GroupNorm(
                num_groups=None,
                group_size=GROUP_SIZE,
                epsilon=NORM_EPSILON,
                use_fast_variance=False,
                name=name,
            )
            return groups(z)
        if self.normalization == "rms":
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            return nn.RMSNorm(epsilon=NORM_EPSILON, name=name)(z) + shift[None, :]
        return z


class ResidualMLP(MLP):
    """An MLP whose layers add to what they got wherever the widths agree (skip connections)."""

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """The sum of both, where they have the same shape."""
        return below + active if below.shape == active.shape else active


MODELS: dict[str, type[MLP]] = {"mlp": MLP, "residual": ResidualMLP}


def layer_name(layer: int) -> str:
    """The parameter group of hidden layer `layer` (from 1)."""
    return f"hidden_{layer}"


def norm_name(layer: int) -> str:
    """The parameter group of the normalization of hidden layer `layer` (from 1)."""
    return f"norm_{layer}"


def slope_name(layer: int) -> str:
    """The parameter of the slopes below 0 of hidden layer `layer` (from 1), for "prelu"."""
    return f"slope_{layer}"


def build(config: Config) -> MLP:
    """The Flax module of a config."""
    return MODELS[config.model](
        hidden=config.hidden,
        outputs=TASKS[config.task].outputs,
        activation=config.activation,
        initializer=config.initializer,
        normalization=config.normalization,
        output_bias=config.output_bias,
    )


def initialize(config: Config, key: jax.Array, inputs: jax.Array | None = None) -> Params:
    """Parameters at step 0. `key` is consumed. Every cell of a seed gets the same weights; only
    the shift of the `biased_units` first units of `biased_layer` has the cell's `initial_bias`.

    The initializer "data_dependent" gives every hidden unit mean 0 and deviation 1 on `inputs`
    [examples, dimension], and raises a ValueError without them.
    """
    params = build(config).init(key, jnp.zeros((2, input_dimension(config))))["params"]
    if config.initializer == "randomized_asymmetric":
        params = _randomized_asymmetric(config, params, jax.random.fold_in(key, 1))
    if config.initializer == "torch_default":
        params = _with_uniform_biases(config, params, jax.random.fold_in(key, 1))
    if config.weight_scale is not None:
        scale = lambda leaf: leaf * config.weight_scale if leaf.ndim == 2 else leaf  # noqa: E731
        params = jax.tree.map(scale, params)
    params = _with_own_norm(config, params)
    if config.initializer == "data_dependent":
        if inputs is None:
            raise ValueError("inputs=None: the initializer 'data_dependent' needs training inputs.")
        params = _data_dependent(config, params, inputs)
    return with_shift(
        config, params, lambda shift: shift.at[: config.biased_units].add(config.initial_bias)
    )


def _affine_names(config: Config) -> list[str]:
    """The parameter groups of all affine maps, from the inputs on."""
    return [layer_name(layer) for layer in range(1, len(config.hidden) + 1)] + ["output"]


def _with_uniform_biases(config: Config, params: Params, key: jax.Array) -> Params:
    """Every bias from U(-1, 1) / sqrt(fan_in)."""
    out = dict(params)
    for i, name in enumerate(_affine_names(config)):
        if "bias" in params[name]:
            fan_in, units = params[name]["kernel"].shape
            values = jax.random.uniform(jax.random.fold_in(key, i), (units,), minval=-1, maxval=1)
            out[name] = {**params[name], "bias": values / fan_in**0.5}
    return out


def _randomized_asymmetric(config: Config, params: Params, key: jax.Array) -> Params:
    """Lu et al., arXiv 1903.06733: of each unit's weights and bias one, chosen at random, is drawn
    from Beta(2, 1) on [0, 1], the others from N(0, 0.6007^2 / fan_in)."""
    out = dict(params)
    for i, name in enumerate(_affine_names(config)):
        fan_in, units = params[name]["kernel"].shape
        normal_key, beta_key, place_key = (
            jax.random.fold_in(jax.random.fold_in(key, i), j) for j in range(3)
        )
        rows = fan_in + ("bias" in params[name])
        values = jax.random.normal(normal_key, (rows, units)) * (0.6007 / fan_in**0.5)
        positive = jnp.sqrt(jax.random.uniform(beta_key, (units,)))  # Beta(2, 1) by its inverse
        place = jax.random.randint(place_key, (units,), 0, rows)
        values = jnp.where(jnp.arange(rows)[:, None] == place[None, :], positive[None, :], values)
        out[name] = {"kernel": values[:fan_in]}
        if rows > fan_in:
            out[name]["bias"] = values[fan_in]
    return out


def _data_dependent(config: Config, params: Params, inputs: jax.Array) -> Params:
    """Layer after layer, each unit's weights and bias so that its affine map has mean 0 and
    deviation 1 on the inputs (Salimans & Kingma 2016, arXiv 1602.07868, section 3). A unit that
    is constant on the inputs keeps its weights."""
    for layer in range(1, len(config.hidden) + 1):
        name = layer_name(layer)
        seen = apply(config, params, inputs).inputs[layer - 1]
        affine = seen @ params[name]["kernel"]
        deviation = affine.std(0, keepdims=True)
        factor = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 1)
        group = {
            "kernel": params[name]["kernel"] * factor,
            "bias": -affine.mean(0) * factor[0],
        }
        params = _with_own_norm(config, {**params, name: group})
    return params


def _with_own_norm(config: Config, params: Params) -> Params:
    """Weight normalization's scales as the norms of the weights, so that at step 0 a normalized
    network is the one without; other parameters as they are."""
    if config.normalization != "weight":
        return params
    layers = range(1, len(config.hidden) + 1)
    kernels = {layer: params[layer_name(layer)]["kernel"] for layer in layers}
    norms = {"scale_" + norm_name(i): jnp.sqrt(jnp.sum(k**2, 0)) for i, k in kernels.items()}
    return {**params, **norms}


def kill(config: Config, params: Params, memory: Any, key: jax.Array) -> tuple[Params, Any]:
    """(parameters, memory) with `config.killed_fraction` of every hidden layer's units killed:
    incoming weights 0 and bias -1. `memory` is any tree that holds copies of the parameters' tree
    (an optimizer's state); a killed unit's entries in it become 0. `key` is consumed."""
    if config.killed_fraction is None:
        return params, memory
    killed = {}
    for layer, width in enumerate(config.hidden, start=1):
        order = jax.random.permutation(jax.random.fold_in(key, layer), width)
        killed[layer_name(layer)] = order < jnp.round(config.killed_fraction * width)

    def without(tree, bias):
        out = dict(tree)
        for name, gone in killed.items():
            out[name] = {
                **tree[name],
                "kernel": jnp.where(gone[None, :], 0, tree[name]["kernel"]),
                "bias": jnp.where(gone, bias, tree[name]["bias"]),
            }
        return out

    is_params = lambda node: isinstance(node, dict) and node.keys() == params.keys()  # noqa: E731
    clear = lambda node: without(node, 0) if is_params(node) else node  # noqa: E731
    return without(params, -1), jax.tree.map(clear, memory, is_leaf=is_params)


def slopes(config: Config, params: Params, layer: int, z: jax.Array) -> jax.Array:
    """The activation's derivative at the pre-activations z [batch, units] of hidden layer `layer`
    (from 1). Of "crelu" it is the sum of the sizes of both outputs' derivatives."""
    if config.activation == "prelu":
        return jnp.where(z > 0, 1, params[slope_name(layer)][None, :])
    active, pull_back = jax.vjp(ACTIVATIONS[config.activation], z)
    direction = jnp.ones_like(active)
    if config.activation == "crelu":  # the second output falls where it moves
        direction = direction.at[:, z.shape[1] :].set(-1)
    (slope,) = pull_back(direction)
    return slope


def with_shift(config: Config, params: Params, change: Callable[[jax.Array], jax.Array]) -> Params:
    """A copy of a parameter-shaped tree with the biased layer's shift [units] changed."""
    group, name = shift_location(config)
    if not group:
        return {**params, name: change(params[name])}
    return {**params, group: {**params[group], name: change(params[group][name])}}


def shift_location(config: Config, layer: int | None = None) -> tuple[str, str]:
    """(group, name) of the additive shift of a hidden layer's pre-activations (of the biased
    layer by default); the group is "" at the top level. Without a normalization it is the
    layer's bias."""
    layer = config.biased_layer if layer is None else layer
    if config.normalization == "none":
        return layer_name(layer), "bias"
    if config.normalization in ("layer", "group"):
        return norm_name(layer), "bias"
    return "", "shift_" + norm_name(layer)


def shift(config: Config, params: Params, layer: int) -> jax.Array:
    """The additive shift of hidden layer `layer`'s pre-activations, [units]."""
    group, name = shift_location(config, layer)
    return (params[group] if group else params)[name]


def apply(config: Config, params: Params, inputs: jax.Array) -> Forward:
    """Outputs and every pre-activation for inputs [batch, dimension]."""
    forward: Any = build(config).apply({"params": params}, inputs)
    return forward


# --- Networks of one unit, many at once -----------------------------------------------------------


class Columns(NamedTuple):
    """The parameters of many one-unit networks, a network a column."""

    weights: jax.Array  # [fan_in, lanes]
    bias: jax.Array  # [lanes]
    output_weight: jax.Array  # [lanes]
    output_bias: jax.Array | None  # [lanes]


def is_one_unit(config: Config) -> bool:
    """Whether the config's network is z = w.x + b, output v f(z) + c, trained by regression."""
    kind = TASKS[config.task]
    return (
        config.model == "mlp"
        and config.hidden == (1,)
        and config.activation not in ("prelu", "crelu")
        and config.normalization == "none"
        and kind.outputs == 1
        and not kind.classes
    )


def to_columns(params: Params) -> Columns:
    """Parameters of one-unit networks with a leading [lanes] axis, as columns."""
    last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), params)
    unit, output = last[layer_name(1)], last["output"]
    return Columns(
        weights=unit["kernel"][:, 0],
        bias=unit["bias"][0],
        output_weight=output["kernel"][0, 0],
        output_bias=output["bias"][0] if "bias" in output else None,
    )


def from_columns(columns: Columns) -> Params:
    """The inverse of `to_columns`."""
    output = {"kernel": columns.output_weight[None, None]}
    if columns.output_bias is not None:
        output["bias"] = columns.output_bias[None]
    unit = {"kernel": columns.weights[:, None], "bias": columns.bias[None]}
    params = {layer_name(1): unit, "output": output}
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), params)


def affine(columns: Columns, inputs: jax.Array) -> jax.Array:
    """z = w.x + b of every network at one input [fan_in], [lanes]."""
    return probes.halve(jnp.add, columns.weights * inputs[:, None]) + columns.bias


def one_unit_gradients(
    config: Config, columns: Columns, inputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, Columns]:
    """(losses [lanes], pre-activations [batch, lanes], gradients) of one-unit networks on shared
    inputs [batch, fan_in] and targets [batch, 1], for half the mean squared error.

    By hand rather than by `jax.grad`, so that weights and bias are one matrix product forward and
    one backward; the tests compare it with `jax.grad` of `apply`. For an activation with
    f(z) = f'(z) z, as ReLU, the output weight's gradient needs no pass over the batch of its own:
    sum_i e_i f(z_i) = sum_i e_i f'(z_i) (x_i.w + b), which is the inner product of the weights
    with their own gradient (Euler's theorem on homogeneous functions).
    """
    batch = inputs.shape[0]
    function = ACTIVATIONS[config.activation]

    def outputs(z):
        output = function(z) * columns.output_weight[None, :]
        return output if columns.output_bias is None else output + columns.output_bias[None, :]

    with_one = jnp.concatenate([inputs, jnp.ones((batch, 1), inputs.dtype)], axis=1)
    weights = jnp.concatenate([columns.weights, columns.bias[None, :]])
    z = with_one @ weights
    active, pull_back = jax.vjp(function, z)
    error = (outputs(z) - targets) / batch
    (through,) = pull_back(error)
    # The weights' gradient but for the output weight. The barrier: XLA would make the transposition
    # part of the product, which then takes three times as long.
    towards = jax.lax.optimization_barrier(with_one.T) @ through
    both = columns.output_weight[None, :] * towards
    if config.activation in HOMOGENEOUS:
        output_gradient = probes.halve(jnp.add, weights * towards)
    else:
        output_gradient = probes.halve(jnp.add, error * active)
    output_bias = None if columns.output_bias is None else probes.halve(jnp.add, error)
    squares = probes.halve(jnp.add, z, targets, each=lambda z, y: (outputs(z) - y) ** 2)
    return squares * (0.5 / batch), z, Columns(both[:-1], both[-1], output_gradient, output_bias)
