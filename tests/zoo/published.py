"""Networks that others published, rebuilt in small from their documentation."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from tests.zoo.base import (
    IMAGES,
    KEY,
    TEXT,
    TOKENS,
    X,
    Y,
    drawn,
    linen,
    of_equinox,
    of_haiku,
    of_nnx,
    program,
)

relu = jax.nn.relu


# Flax linen ------------------------------------------------------------------------------------


@program("Flax example, MNIST", (4,), (6,), (16,))
def mnist():
    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (4, 6):
                x = nn.relu(nn.Conv(width, (3, 3))(x))
                x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
            x = nn.relu(nn.Dense(16)(x.reshape((x.shape[0], -1))))
            return nn.Dense(10)(x)

    return linen(CNN(), IMAGES)


@program("Flax example, ImageNet ResNet (basic block)", (6,), (6,), (6,))
def imagenet():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = lambda **k: nn.BatchNorm(use_running_average=False, momentum=0.9, **k)  # noqa: E731
            y = nn.Conv(6, (3, 3), (2, 2), use_bias=False)(x)
            y = nn.relu(norm()(y))
            y = nn.Conv(6, (3, 3), use_bias=False)(y)
            y = norm(scale_init=nn.initializers.zeros_init())(y)
            x = norm(name="norm_proj")(nn.Conv(6, (1, 1), (2, 2), use_bias=False)(x))
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False, name="bn_init")(x))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            return nn.Dense(10, dtype=jnp.float32)(Block()(x).mean((1, 2)))

    module = ResNet()
    variables = drawn(module.init, KEY, IMAGES)
    return lambda v, x: module.apply(v, x, mutable=["batch_stats"]), variables, (IMAGES,)


@program("Flax example, ImageNet ResNet (bottleneck)", (4,), (4,), (16,))
def bottleneck():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = lambda: nn.BatchNorm(use_running_average=True)  # noqa: E731
            y = nn.relu(norm()(nn.Conv(4, (1, 1), use_bias=False)(x)))
            y = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(y)))
            y = norm()(nn.Conv(16, (1, 1), use_bias=False)(y))
            return nn.relu(norm()(nn.Conv(16, (1, 1), use_bias=False)(x)) + y)

    return linen(Block(), IMAGES)


@program("Flax example, VAE", (16,), (16,))
def vae():
    class VAE(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            h = nn.relu(nn.Dense(16, name="encoder")(x))
            mean, logvar = nn.Dense(3, name="mean")(h), nn.Dense(3, name="logvar")(h)
            z = mean + jax.random.normal(key, logvar.shape) * jnp.exp(0.5 * logvar)
            h = nn.relu(nn.Dense(16, name="decoder")(z))
            return nn.Dense(12)(h), mean, logvar

    return linen(VAE(), X, KEY)


@program("Flax example, lm1b (pre-norm decoder, dropout, shifted inputs)", (32,), (32,))
def lm1b():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            y = nn.LayerNorm(dtype=jnp.bfloat16)(x)
            x = x + nn.MultiHeadDotProductAttention(2, dtype=jnp.bfloat16)(y, mask=mask)
            y = nn.LayerNorm(dtype=jnp.bfloat16)(x)
            y = nn.relu(nn.Dense(32, dtype=jnp.bfloat16)(y))
            y = nn.Dropout(0.1, deterministic=False)(y)
            return x + nn.Dense(8, dtype=jnp.bfloat16)(y)

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            mask = nn.make_causal_mask(tokens)
            embed = nn.Embed(50, 8)
            x = embed(jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1])
            for _ in range(2):
                x = Layer()(x, mask)
            return embed.attend(nn.LayerNorm()(x).astype(jnp.float32))

    module = Decoder()
    variables = drawn(module.init, {"params": KEY, "dropout": KEY}, TEXT)
    fn = lambda v, t, key: module.apply(v, t, rngs={"dropout": key})  # noqa: E731
    return fn, variables, (TEXT, KEY)


@program("Flax example, PPO on Atari", (4,), (6,), (6,), (16,))
def atari():
    class ActorCritic(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x.astype(jnp.float32) / 255.0
            x = nn.relu(nn.Conv(4, (8, 8), (4, 4), name="conv1", padding="SAME")(x))
            x = nn.relu(nn.Conv(6, (4, 4), (2, 2), name="conv2", padding="SAME")(x))
            x = nn.relu(nn.Conv(6, (3, 3), (1, 1), name="conv3", padding="SAME")(x))
            x = nn.relu(nn.Dense(16, name="hidden")(x.reshape((x.shape[0], -1))))
            return nn.log_softmax(nn.Dense(4, name="logits")(x)), nn.Dense(1, name="value")(x)

    return linen(ActorCritic(), (IMAGES * 255).astype(jnp.uint8))


@program("actor-critic with two towers, orthogonal kernels", (16,), (16,), (16,), (16,))
def two_towers():
    class Towers(nn.Module):
        @nn.compact
        def __call__(self, x):
            outs = []
            for width, gain in ((3, 0.01), (1, 1.0)):
                h = x
                for _ in range(2):
                    init = nn.initializers.orthogonal(2**0.5)
                    h = nn.relu(nn.Dense(16, kernel_init=init)(h))
                outs.append(nn.Dense(width, kernel_init=nn.initializers.orthogonal(gain))(h))
            return outs[0], jnp.squeeze(outs[1], axis=-1)

    return linen(Towers(), X)


@program("dueling Q-network, Nature convolutions", (4,), (6,), (9,), (9,))
def dueling():
    class Q(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jnp.transpose(x, (0, 2, 3, 1))
            x = nn.relu(nn.Conv(4, (4, 4), (2, 2), padding="VALID")(x))
            x = nn.relu(nn.Conv(6, (3, 3), (1, 1), padding="VALID")(x))
            x = x.reshape((x.shape[0], -1))
            value = nn.Dense(1)(nn.relu(nn.Dense(9)(x)))
            advantage = nn.Dense(4)(nn.relu(nn.Dense(9)(x)))
            return value + advantage - advantage.mean(-1, keepdims=True)

    return linen(Q(), jnp.moveaxis(IMAGES, -1, 1))


@program(
    "soft actor-critic: tanh policy and two critics by nn.vmap", (16,), (16,), (2, 16), (2, 16)
)
def soft_actor_critic():
    class Critic(nn.Module):
        @nn.compact
        def __call__(self, x, a):
            x = jnp.concatenate([x, a], -1)
            for _ in range(2):
                x = nn.relu(nn.Dense(16)(x))
            return nn.Dense(1)(x)[..., 0]

    class Agent(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            h = x
            for _ in range(2):
                h = nn.relu(nn.Dense(16)(h))
            mean, log_std = nn.Dense(3)(h), jnp.clip(nn.Dense(3)(h), -20, 2)
            raw = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
            a = jnp.tanh(raw)
            twins = nn.vmap(Critic, variable_axes={"params": 0}, split_rngs={"params": True},
                            in_axes=None, out_axes=0, axis_size=2)  # fmt: skip
            return jnp.min(twins()(x, a), 0), a

    return linen(Agent(), X, KEY)


@program("recurrent policy, LSTM after a rectified embedding", (9,), (7,))
def recurrent_policy():
    class Policy(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(9)(x))
            x = nn.RNN(nn.OptimizedLSTMCell(8))(x)
            return nn.Dense(3)(nn.relu(nn.Dense(7)(x)))

    return linen(Policy(), TOKENS)


@program("T5 feed-forward with RMS norm, no biases", (24,))
def t5():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.RMSNorm()(x)
            h = nn.relu(nn.Dense(24, use_bias=False, name="wi")(h))
            h = nn.Dropout(0.1)(h, deterministic=True)
            return x + nn.Dense(8, use_bias=False, name="wo")(h)

    return linen(Block(), TOKENS)


@program("encoder and decoder with cross attention", (20,), (24,))
def encoder_decoder():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, source, target):
            source = source + nn.MultiHeadDotProductAttention(2)(source, source)
            source = source + nn.Dense(8)(nn.relu(nn.Dense(20)(source)))
            target = target + nn.MultiHeadDotProductAttention(2)(target, source)
            return target + nn.Dense(8)(nn.relu(nn.Dense(24)(target)))

    return linen(Model(), TOKENS, TOKENS + 1)


@program("Primer feed-forward, squared relu", (24,))
def primer():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(8)(jnp.square(nn.relu(nn.Dense(24)(nn.LayerNorm()(x)))))

    return linen(Block(), TOKENS)


@program("ConvNet with instance norm and group norm", (4,), (6,))
def instance_norm():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.InstanceNorm()(nn.Conv(4, (3, 3))(x)))
            x = nn.relu(nn.GroupNorm(num_groups=3)(nn.Conv(6, (3, 3))(x)))
            return nn.Dense(2)(x.mean((1, 2)))

    return linen(Net(), IMAGES)


@program("MobileNet blocks, relu6", (6,), (6,), (9,), (9,))
def mobile_net():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (6, 9):
                x = nn.Conv(width, (1, 1), use_bias=False)(x)
                x = nn.relu6(nn.BatchNorm(use_running_average=True)(x))
                x = nn.Conv(width, (3, 3), feature_group_count=width, use_bias=False)(x)
                x = nn.relu6(nn.BatchNorm(use_running_average=True)(x))
            return nn.Dense(2)(x.mean((1, 2)))

    return linen(Net(), IMAGES)


@program("DenseGeneral with heads", (2, 5))
def dense_general():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.DenseGeneral(4, axis=(-2, -1))(nn.relu(nn.DenseGeneral((2, 5))(x)))

    return linen(Net(), TOKENS)


@program("nn.Sequential with bound activations", (9,), (8,))
def sequential():
    return linen(nn.Sequential([nn.Dense(9), nn.relu, nn.Dense(8), nn.PReLU(), nn.Dense(2)]), X)


@program("linen SpectralNorm", (9,))
def spectral_norm():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.SpectralNorm(nn.Dense(9), collection_name="batch_stats")(x, update_stats=True)
            return nn.Dense(2)(nn.relu(x))

    module = Net()
    variables = drawn(module.init, KEY, X)
    return lambda v, x: module.apply(v, x, mutable=["batch_stats"])[0], variables, (X,)


@program("linen ConvTranspose decoder", (9,), (5,))
def decoder():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, z):
            x = nn.relu(nn.Dense(9)(z)).reshape(-1, 3, 3, 1)
            x = nn.relu(nn.ConvTranspose(5, (3, 3), (2, 2))(x))
            return nn.ConvTranspose(3, (3, 3), (2, 2))(x)

    return linen(Net(), X)


@program("linen LocallyConnected", (6, 6, 4))
def locally_connected():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.ConvLocal(4, (3, 3), padding="VALID")(x))
            return nn.Dense(2)(x.reshape(len(x), -1))

    return linen(Net(), IMAGES)


# Flax nnx --------------------------------------------------------------------------------------


@program("nnx example, MNIST", (4,), (6,), (16,))
def nnx_mnist():
    class CNN(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(3, 4, kernel_size=(3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.25, rngs=rngs)
            self.conv2 = nnx.Conv(4, 6, kernel_size=(3, 3), rngs=rngs)
            self.linear1 = nnx.Linear(24, 16, rngs=rngs)
            self.linear2 = nnx.Linear(16, 10, rngs=rngs)

        def __call__(self, x):
            pool = lambda x: nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))  # noqa: E731
            x = pool(nnx.relu(self.norm(self.drop(self.conv1(x)))))
            x = pool(nnx.relu(self.conv2(x)))
            x = nnx.relu(self.drop(self.linear1(x.reshape(x.shape[0], -1))))
            return self.linear2(x)

    return of_nnx(CNN(nnx.Rngs(0)), IMAGES)


@program("nnx example, VAE", (16,), (16,))
def nnx_vae():
    class VAE(nnx.Module):
        def __init__(self, rngs):
            self.encoder = nnx.Linear(12, 16, rngs=rngs)
            self.mean, self.std = (nnx.Linear(16, 3, rngs=rngs) for _ in range(2))
            self.decoder = nnx.Linear(3, 16, rngs=rngs)
            self.out = nnx.Linear(16, 12, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x):
            h = jax.nn.relu(self.encoder(x))
            mean, std = self.mean(h), jnp.exp(self.std(h))
            z = mean + std * jax.random.normal(self.rngs.noise(), mean.shape)
            return self.out(jax.nn.relu(self.decoder(z)))

    return of_nnx(VAE(nnx.Rngs(0, noise=1)), X)


@program("nnx layers stacked by vmap and scanned", (3, 9))
def nnx_scanned():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.up, self.down = nnx.Linear(12, 9, rngs=rngs), nnx.Linear(9, 12, rngs=rngs)

        def __call__(self, x):
            return x + self.down(nnx.relu(self.up(x)))

    class Stack(nnx.Module):
        def __init__(self, rngs):
            make = nnx.vmap(Block, in_axes=0, out_axes=0)
            self.blocks = make(rngs.split(3))

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def run(x, block):
                return block(x)

            return run(x, self.blocks)

    return of_nnx(Stack(nnx.Rngs(0)), X)


@program("nnx rematerialized transformer block", (32,))
def nnx_block():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(8, 32, rngs=rngs), nnx.Linear(32, 8, rngs=rngs)

        def __call__(self, x):
            x = x + self.attend(self.norm(x))
            feed_forward = nnx.remat(lambda block, x: block.down(nnx.relu(block.up(x))))
            return x + feed_forward(self, x)

    return of_nnx(Block(nnx.Rngs(0)), TOKENS)


@program("nnx LoRA", (9,))
def nnx_lora():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.LoRALinear(12, 9, lora_rank=2, rngs=rngs)
            self.out = nnx.Linear(9, 4, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.first(x)))

    return of_nnx(Net(nnx.Rngs(0)), X)


# Equinox ---------------------------------------------------------------------------------------


@program("equinox CNN of the MNIST example", (3,), (16,), (8,))
def eqx_cnn():
    class CNN(eqx.Module):
        layers: list

        def __init__(self, key):
            a, b, c, d = jax.random.split(key, 4)
            self.layers = [
                eqx.nn.Conv2d(3, 3, kernel_size=4, key=a),
                eqx.nn.MaxPool2d(kernel_size=2),
                jax.nn.relu,
                jnp.ravel,
                eqx.nn.Linear(48, 16, key=b),
                jax.nn.relu,
                eqx.nn.Linear(16, 8, key=c),
                jax.nn.relu,
                eqx.nn.Linear(8, 10, key=d),
                jax.nn.log_softmax,
            ]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return of_equinox(CNN(KEY), jnp.moveaxis(IMAGES, -1, 1))


@program("equinox residual blocks with group norm", (8,), (8,))
def eqx_res():
    class Block(eqx.Module):
        first: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        second: eqx.nn.Conv2d
        last: eqx.nn.GroupNorm

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.first = eqx.nn.Conv2d(3, 8, 3, padding=1, key=a)
            self.second = eqx.nn.Conv2d(8, 8, 3, padding=1, key=b)
            self.norm, self.last = eqx.nn.GroupNorm(4, 8), eqx.nn.GroupNorm(4, 8)

        def __call__(self, x):
            y = jax.nn.relu(self.norm(self.first(x)))
            return jax.nn.relu(self.last(self.second(y))).mean((1, 2))

    return of_equinox(Block(KEY), jnp.moveaxis(IMAGES, -1, 1))


@program("equinox layers scanned over stacked parameters", (3, 12))
def eqx_scanned():
    class Stack(eqx.Module):
        layers: eqx.nn.Linear

        def __init__(self, key):
            make = lambda key: eqx.nn.Linear(12, 12, key=key)  # noqa: E731
            self.layers = eqx.filter_vmap(make)(jax.random.split(key, 3))

        def __call__(self, x):
            arrays, static = eqx.partition(self.layers, eqx.is_array)
            step = lambda x, p: (jax.nn.relu(eqx.combine(p, static)(x)), None)  # noqa: E731
            return jax.lax.scan(step, x, arrays)[0]

    return of_equinox(Stack(KEY), X)


@program("equinox recurrent network with a rectified read-out", (7,))
def eqx_rnn():
    class Net(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.MLP

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.cell = eqx.nn.GRUCell(8, 6, key=a)
            self.head = eqx.nn.MLP(6, 2, 7, 1, key=b)

        def __call__(self, xs):
            step = lambda h, x: (self.cell(x, h), None)  # noqa: E731
            return self.head(jax.lax.scan(step, jnp.zeros(6), xs)[0])

    return of_equinox(Net(KEY), TOKENS)


@program("equinox conditional flow: one MLP per coupling", (9,), (9,))
def eqx_flow():
    class Flow(eqx.Module):
        couplings: list

        def __init__(self, key):
            keys = jax.random.split(key)
            self.couplings = [eqx.nn.MLP(6, 12, 9, 1, activation=jax.nn.relu, key=k) for k in keys]

        def __call__(self, x):
            total = 0.0
            for net in self.couplings:
                a, b = jnp.split(x, 2)
                shift, log_scale = jnp.split(net(a), 2)
                log_scale = 2 * jnp.tanh(log_scale / 2)
                x = jnp.concatenate([b * jnp.exp(log_scale) + shift, a])
                total = total + log_scale.sum()
            return total - 0.5 * (x**2).sum()

    return of_equinox(Flow(KEY), X)


# Haiku -----------------------------------------------------------------------------------------


@program("haiku ResNet block, transform_with_state", (6,), (6,), (6,))
def hk_resnet():
    def net(x):
        norm = lambda: hk.BatchNorm(True, True, 0.9)  # noqa: E731
        x = hk.Conv2D(6, 3, with_bias=False)(x)
        x = jax.nn.relu(norm()(x, is_training=True))
        y = hk.Conv2D(6, 3, with_bias=False)(x)
        y = jax.nn.relu(norm()(y, is_training=True))
        y = norm()(hk.Conv2D(6, 3, with_bias=False)(y), is_training=True)
        return hk.Linear(4)(jax.nn.relu(x + y).mean((1, 2)))

    model = hk.transform_with_state(net)
    params, state = drawn(model.init, KEY, IMAGES)
    return lambda p, s, x: model.apply(p, s, None, x), params, (state, IMAGES)


@program("haiku Nature DQN, Sequential", (4,), (6,), (9,))
def hk_dqn():
    return of_haiku(
        lambda x: hk.Sequential([
            lambda x: x / 255.0,
            hk.Conv2D(4, kernel_shape=4, stride=2), jax.nn.relu,
            hk.Conv2D(6, kernel_shape=3, stride=1), jax.nn.relu,
            hk.Flatten(), hk.Linear(9), jax.nn.relu, hk.Linear(4),
        ])(x), IMAGES,
    )  # fmt: skip


@program("haiku transformer MLP with dropout", (32,))
def hk_transformer():
    def net(x, key):
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling(), model_size=8)(
            h, h, h
        )
        h = jax.nn.relu(hk.Linear(32)(hk.LayerNorm(-1, True, True)(x)))
        return x + hk.dropout(key, 0.1, hk.Linear(8)(h))

    return of_haiku(net, TOKENS, KEY)


@program("haiku layer_stack", (3, 9))
def hk_stack():
    def net(x):
        @hk.experimental.layer_stack(3)
        def layer(x):
            return x + hk.Linear(12)(jax.nn.relu(hk.Linear(9)(x)))

        return layer(x)

    return of_haiku(net, X)


@program("haiku VectorQuantizer autoencoder", (9,), (9,))
def hk_vq():
    def net(x):
        z = hk.Linear(4)(jax.nn.relu(hk.Linear(9)(x)))
        quantizer = hk.nets.VectorQuantizer(4, 6, commitment_cost=0.25)
        return hk.Linear(12)(jax.nn.relu(hk.Linear(9)(quantizer(z, False)["quantize"])))

    return of_haiku(net, X)


# Plain JAX -------------------------------------------------------------------------------------


@program("neural process: mean of a set, then a decoder", (9,), (9,), (1,))
def neural_process():
    class Process(nn.Module):
        @nn.compact
        def __call__(self, x, y, target):
            r = nn.Dense(8)(nn.relu(nn.Dense(9)(jnp.concatenate([x, y], -1)))).mean(0)
            both = jnp.concatenate([target, jnp.broadcast_to(r, (len(target), 8))], -1)
            mean, log = jnp.split(nn.Dense(2)(nn.relu(nn.Dense(9)(both))), 2, -1)
            return mean, 0.1 + 0.9 * nn.softplus(log)

    return linen(Process(), X, Y, X + 1)


@program("PINN: derivatives of the network by its inputs", (9,), (9,))
def physics_informed():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.relu(nn.Dense(9)(x)) ** 3
            return nn.Dense(1)(x)[0]

    module = Net()
    variables = drawn(module.init, KEY, X[0])

    def residual(v, xs):
        u = lambda x: module.apply(v, x)  # noqa: E731
        return jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)) - u(x))(xs)

    return residual, variables, (X,)


@program("energy by scores: gradient by the inputs", (9,))
def energy():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.Dense(9)(x)))[..., 0]

    module = Net()
    variables = drawn(module.init, KEY, X)

    def penalty(v, x):  # the gradient penalty of a critic
        slopes = jax.grad(lambda x: module.apply(v, x).sum())(x)
        return ((jnp.linalg.norm(slopes, axis=-1) - 1) ** 2).mean()

    return penalty, variables, (X,)


@program("MAML: an inner step, then the loss", (9,))
def maml():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(nn.relu(nn.Dense(9)(x)))

    module = Net()
    variables = drawn(module.init, KEY, X)

    def loss(v, x, y):
        return ((module.apply(v, x) - y) ** 2).mean()

    def outer(v, x, y):
        g = jax.grad(loss)(v, x, y)
        return loss(jax.tree.map(lambda p, d: p - 0.1 * d, v, g), x + 1, y)

    return outer, variables, (X, Y)
