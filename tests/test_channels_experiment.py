"""experiments.channels: one channel open at a time, forks and accounts beside it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.channels import EXPERIMENT, sweep
from experiments.channels.closed_forms import decay_steps, within_an_evaluation
from experiments.channels.collapse import collapse
from experiments.channels.counts import certificate_row
from experiments.channels.step_0 import certify_panel, step_0
from experiments.channels.verdicts import collapse_claim
from relu_dynamics import certificates, channels, store
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import parameter_updates
from relu_dynamics.experiment import conduct
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics.claims import VERDICTS
from relu_dynamics.sweeps import studies

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments", "channels"]

pytestmark = pytest.mark.slow  # nine programs to compile


TINY = dataclasses.replace(
    sweep.QUICK,
    config=dataclasses.replace(
        sweep.BASE,
        hidden=(8,),
        biased_units=4,
        examples=64,
        batch_size=16,
        steps=60,
        probe_every=2,
    ),
    channels=("none", "decay", "layer_norm", "batch_norm"),
    rates=3,
    biases=4,
    seeds=4,
    fork_seeds=6,
    fork_rate=0.1,
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of one whole tiny run."""
    folder = tmp_path_factory.mktemp("channels")
    conduct(EXPERIMENT, dataclasses.replace(TINY, out=folder))
    return folder


@pytest.fixture(scope="module")
def summary(out):
    return json.loads((out / "summary.json").read_text())


def panel(summary, name):
    return next(p for p in summary["panels"] if p["name"] == name)


def claims(summary, start):
    found = [c for c in summary["claims"] if c["claim"].startswith(start)]
    assert found
    return found


def grid_of(name):
    channel = next(c for c in sweep.CHANNELS if c.name == name)
    return sweep.channel_grid(TINY, channel)


def test_every_channel_makes_a_grid_that_can_run():
    options = sweep.DEFAULTS
    chosen = sweep.chosen_channels(options)
    assert [c.name for c in chosen] == list(sweep.NAMES) and len(chosen) == 12
    for channel in chosen:
        grid = sweep.channel_grid(options, channel)
        assert grid.config.biased_layer == channel.layers == len(grid.config.hidden)
        assert len(dict(grid.axes)["initial_bias"]) == options.biases
        if channel.name != "all":  # one channel open at a time
            opened = [f for f in sweep.CLOSED if getattr(grid.config, f)]
            assert len(opened) <= 1


def test_without_a_channel_nobody_recovers_and_all_are_certified(summary):
    found = panel(summary, "none")
    assert found["recovered"]["successes"] == 0 < found["recovered"]["trials"]
    row = found["certificates"]
    assert row["seeds"] == TINY.seeds and row["units_at_risk"] == found["recovered"]["trials"]
    assert row["certified_never"] == row["units_at_risk"]
    assert claims(summary, "without a channel")[0]["verdict"] == "confirmed"


def test_closed_channels_are_plain_sgd():
    """A coefficient of 0 and a missing term give the same update, bit for bit."""
    config = grid_of("none").config
    plain = dataclasses.replace(config, **sweep.PLAIN)
    updates = []
    for one in (config, plain):
        _, state = step_0(one, 0, 0)
        gradients = jax.tree.map(lambda leaf: leaf + 0.1, state.params)
        update, _ = parameter_updates(one, jax.random.key(1), state, gradients)
        updates.append(jax.tree.map(np.asarray, update))
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_layer_norm_recovers_and_batch_norm_does_not(summary):
    layer, batch = (panel(summary, name)["recovered"] for name in ("layer_norm", "batch_norm"))
    assert layer["successes"] > 0 and batch["successes"] == 0 < batch["trials"]
    assert claims(summary, "LayerNorm recovers")[0]["verdict"] == "confirmed"
    absorbed = claims(summary, "LayerNorm, 8 units: below the absorbing shift")[0]
    assert absorbed["counts"][0] == 0 < absorbed["counts"][1]
    (line,) = panel(summary, "layer_norm")["boundaries"]
    np.testing.assert_allclose(line["initial_bias"], -np.sqrt(7), atol=0.01)


def test_decay_acts_at_the_closed_form_step_in_every_unit(out):
    grid = grid_of("decay")
    result = store.open_result(out / "decay").load()
    steps = decay_steps(result, grid.config)
    assert within_an_evaluation(steps, grid.config)[steps.counted].all()
    back = steps.counted & np.isfinite(steps.looked)
    assert back.sum() >= 5 and (steps.predicted[back] <= steps.looked[back] + 1).all()
    late = steps._replace(predicted=steps.predicted + 2 * grid.config.probe_every)
    assert not within_an_evaluation(late, grid.config)[back].any()


def test_a_fork_keeps_one_cohort_and_agrees_with_the_account(summary):
    names = [fork["name"] for fork in summary["forks"]]
    assert names == list(sweep.chosen_forks(TINY)) == list(sweep.FORKED)[:2]
    for fork in summary["forks"]:
        rows = fork["rows"]
        assert rows[0]["arm"] == "as_is" and len({row["cohort"] for row in rows}) == 1
        assert fork["cohort_differs"] == 0
        shares = [row["share_of_climb"] for row in rows[1:]]
        if rows[0]["recovered"]:
            whole = sum(shares) + sum(fork["other_shares"].values())
            assert whole == pytest.approx(1, abs=1e-4)
        for row in rows[1:]:
            seeds = row["difference"]["seeds"]
            assert seeds <= TINY.fork_seeds
            assert row["vanished"]["trials"] == rows[0]["recovered"]
            if row["without_share"]:
                assert row["without_share"]["agrees"]
        assert not any(fork["certified_and_recovered"].values())
    assert claims(summary, "forks and accounts agree")[0]["verdict"] == "confirmed"
    upstream = summary["forks"][1]
    assert [row["arm"] for row in upstream["rows"]] == ["as_is", "upstream_frozen"]
    frozen = upstream["rows"][1]
    assert frozen["recovered"] == 0  # plain SGD on frozen inputs
    assert upstream["certified_never"]["upstream_frozen"] == frozen["cohort"]


def test_every_claim_has_estimate_interval_expectation_source_and_verdict(summary):
    for claim in summary["claims"]:
        assert {"claim", "estimate", "interval", "expected", "grounds", "verdict"} <= claim.keys()
        low, high = claim["interval"]
        if claim["estimate"] is not None:
            assert low <= claim["estimate"] <= high
        assert claim["verdict"] in VERDICTS and claim["grounds"] and claim["finding"]
    assert claims(summary, "a unit certified never")[0]["verdict"] == "confirmed"


def test_draw_makes_the_figures_again_without_training(out, monkeypatch):
    names = [f"{stem}.{kind}" for stem in ("channels", "channels_forks") for kind in ("png", "pdf")]
    for name in names:
        assert (out / name).stat().st_size > 10_000
        (out / name).unlink()

    def refuse(*arguments, **others):
        raise AssertionError("trained")

    monkeypatch.setattr(studies, "sweep_grid", refuse)
    monkeypatch.setattr(channels, "fork", refuse)
    conduct(EXPERIMENT, dataclasses.replace(TINY, out=out, draw=True))
    assert all((out / name).is_file() for name in names)


def test_collapse_is_flat_where_time_is_only_rescaled():
    """Hand-made histories: recovery at rate * step = 4 at every rate, then earlier at the last."""
    rates, seeds, units = [0.1, 0.2, 0.4, 0.8], 12, 6
    config = dataclasses.replace(TINY.config, steps=80, probe_every=1)
    grid = make_grid(config, {"learning_rate": rates, "initial_bias": [-4.0]}, list(range(seeds)))
    draws = np.random.default_rng(0).uniform(2, 14, (seeds, units))  # rate * step of recovery
    first = np.stack([np.ceil(draws / rate) for rate in rates])[:, None]
    dims = ("learning_rate", "initial_bias", "seed", "unit")

    def result(first):
        first = np.where(first > config.steps, NEVER, first)
        true = (dims, np.ones(first.shape, bool))
        return xr.Dataset(
            {
                "first_recovery": (dims, first),
                "dead_at_start": true,
                "near_zero_at_start": (dims, np.zeros(first.shape, bool)),
                "biased": ("unit", np.ones(units, bool)),
            },
            {"learning_rate": rates, "initial_bias": [-4.0]},
            {"identity": json.dumps(grid.identity)},
        )

    flat = collapse_claim(collapse(result(first)))
    assert flat.verdict == "undecided" and flat.more["comparisons_apart"][0] == 0
    first[3] = np.ceil(first[3] / 4)
    broken = collapse_claim(collapse(result(first)))
    assert broken.verdict == "refuted" and broken.more["breaks_at"] == [0.8]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": ("nose",)}, 'did you mean "noise"'),
        ({"fork_step": 3}, "fork_step=3 must be a multiple of probe_every=2"),
        ({"rates": 1}, "rates=1 must be at least 2"),
        ({"biases": -3}, "biases=-3 must be at least 2"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"out": pathlib.Path("/proc/no/such")}, "cannot be written"),
        ({"out": pathlib.Path("nowhere"), "draw": True}, "run the experiment first"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(change, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        conduct(EXPERIMENT, dataclasses.replace(TINY, **change))


def test_a_contradicted_certificate_is_not_passed_over(out):
    result = store.open_result(out / "layer_norm").load()
    certified = certify_panel(result, grid_of("layer_norm"), 1)
    wrong = certified._replace(
        verdict=np.full_like(certified.verdict, certificates.Verdict.CERTIFIED_NEVER)
    )
    with pytest.raises(ValueError, match="certified never to recover did"):
        certificate_row(wrong)


@pytest.mark.slow
def test_quick_channels(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--quick", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    assert not [c["claim"] for c in found["claims"] if c["verdict"] == "refuted"]
