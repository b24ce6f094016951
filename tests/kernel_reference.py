"""Training in NumPy and float64, written apart from the engine: what the kernel is held against."""

import numpy as np

ADAM_B2, ADAM_EPSILON = 0.999, 1e-8


def forward(layers, x, slope):
    """(z of every layer, the output's last; what every layer sees)."""
    seen, before = [x], []
    for i, (w, b) in enumerate(layers):
        z = seen[-1] @ w + (0 if b is None else b)
        before.append(z)
        if i + 1 < len(layers):
            # NaN stays, as in JAX: neither comparison holds.
            seen.append(np.where(z > 0, z, np.where(z <= 0, slope * np.minimum(z, 0), z)))
    return before, seen


def loss_and_error(output, y, classes):
    """The mean loss, and its gradient by the outputs."""
    n = len(output)
    if classes:
        shifted = output - output.max(1, keepdims=True)
        e = np.exp(shifted)
        share = e / e.sum(1, keepdims=True)
        loss = (np.log(e.sum(1)) - shifted[np.arange(n), y]).mean()
        return loss, (share - np.eye(output.shape[1])[y]) / n
    return 0.5 * np.mean((output - y) ** 2), (output - y) / output.size


def gradients(layers, x, y, slope, classes):
    """(loss, hidden pre-activations, gradients as `layers`)."""
    before, seen = forward(layers, x, slope)
    loss, error = loss_and_error(before[-1], y, classes)
    found = []
    for i in range(len(layers) - 1, -1, -1):
        w, b = layers[i]
        found.insert(0, (seen[i].T @ error, None if b is None else error.sum(0)))
        if i:
            z = before[i - 1]
            active = z > 0 if slope == 0 else z >= 0
            error = error @ w.T * np.where(active, 1, slope)
    return loss, before[:-1], found


def train(layers, inputs, targets, batches, *, rates, rule, momentum, decay, decoupled, decays,
          slope, classes):  # fmt: skip
    """The network [(w, b or None), ...] after a step on every minibatch of `batches`, indices
    [steps, batch], and what it showed on the way.

    `rates` [steps]; `rule` is sgd, momentum, nesterov or adam; `decays` says of (weights, biases)
    whether they decay.
    """
    layers = [tuple(None if a is None else np.float64(a) for a in layer) for layer in layers]
    memory = {name: [[0.0, 0.0] for _ in layers] for name in ("m", "v")}
    units = sum(w.shape[1] for w, _ in layers[:-1])
    seen = {"mean": np.zeros(units), "peak": np.full(units, -np.inf), "active": np.zeros(units)}
    first, losses, nearest = np.full(units, -1), [], np.inf
    for t, batch in enumerate(batches):
        loss, before, found = gradients(layers, inputs[batch], targets[batch], slope, classes)
        losses.append(loss)
        z = np.concatenate(before, 1)
        nearest = min(nearest, np.abs(z[z != 0]).min(initial=np.inf))
        seen["mean"] += z.mean(0)
        seen["active"] += (z > 0).mean(0)
        seen["peak"] = np.maximum(seen["peak"], z.max(0))
        first = np.where((first < 0) & (seen["peak"] > 0), t, first)
        for i, layer in enumerate(layers):
            made = []
            for j, p in enumerate(layer):
                if p is None:
                    made.append(None)
                    continue
                g = found[i][j] + decay * p * (decays[j] and not decoupled)
                change = _change(rule, memory, i, j, g, momentum, t + 1)
                made.append(p - rates[t] * (change + decay * p * (decays[j] and decoupled)))
            layers[i] = tuple(made)
    return layers, {**seen, "first": first, "losses": np.array(losses), "nearest": nearest}


def _change(rule, memory, i, j, g, momentum, count):
    m, v = memory["m"][i], memory["v"][i]
    if rule == "sgd":
        return g
    if rule == "adam":
        m[j] = momentum * m[j] + (1 - momentum) * g
        v[j] = ADAM_B2 * v[j] + (1 - ADAM_B2) * g**2
        whole, square = m[j] / (1 - momentum**count), v[j] / (1 - ADAM_B2**count)
        return whole / (np.sqrt(square) + ADAM_EPSILON)
    m[j] = g + momentum * m[j]
    return g + momentum * m[j] if rule == "nesterov" else m[j]
