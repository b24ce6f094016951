"""Claims, studies and hazards: verdicts from intervals, families, the page, a study's arms."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from relu_dynamics import statistics, store
from relu_dynamics.config import Config
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.sweeps import studies

CONFIG = Config(hidden=(4, 6), biased_units=2, steps=100, probe_every=25, initial_bias=0.0)


def claim(first, second, **fields):
    return claims.difference_claim(
        "more die", "dying ReLU", first, second,
        finding="{first:.2f} against {second:.2f}: {estimate:+.2f} [{low:.2f}, {high:.2f}]",
        definition="died on the probe set", **fields,
    )  # fmt: skip


def arms(effect, seeds=40, noise=0.1, seed=0):
    draw = np.random.default_rng(seed)
    base = draw.normal(size=seeds)  # what both arms of a seed share
    return base + effect + noise * draw.normal(size=seeds), base


# --- Paired means and their p values --------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), seeds=st.integers(3, 60), effect=st.floats(-2, 2))
def test_paired_mean_is_the_t_interval_of_the_differences(seed, seeds, effect):
    first, second = arms(effect, seeds, 0.5, seed)
    found = statistics.paired_mean(first, second)
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    # Degrees of freedom: seeds that differ from the median one, here all but one or all.
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-6, atol=1e-9)


def test_paired_p_value_is_exact_for_few_seeds_and_close_to_t_for_many():
    assert statistics.paired_p_value([1.0, 2, 3, 4, 5], np.zeros(5)) == pytest.approx(2 / 32)
    first, second = arms(0.03, 60, 0.1)
    wanted = stats.ttest_rel(first, second).pvalue
    assert statistics.paired_p_value(first, second) == pytest.approx(wanted, abs=0.02)
    assert statistics.paired_p_value(first, first) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [([1.0], [1.0, 2.0], "must be equal"), ([np.nan], [1.0], "finite"), ([], [], "not empty")],
)
def test_paired_arms_must_fit(first, second, words):
    with pytest.raises(ValueError, match=words):
        statistics.paired_mean(first, second)


def test_seeds_that_diverged_in_either_arm_are_left_out_of_both():
    first, second = statistics.finite_pairs([1.0, np.nan, 3.0, 4.0], [1.5, 2.0, np.inf, 4.5])
    assert first.tolist() == [1.0, 4.0] and second.tolist() == [1.5, 4.5]


def test_an_interval_as_json_has_its_counts_and_no_nan():
    row = statistics.exact_interval(3, 10).as_json()
    low, high = statistics.exact_interval(3, 10)[1:3]
    assert row == {
        "estimate": 0.3, "interval": [low, high], "seeds": 10, "successes": 3, "trials": 10
    }  # fmt: skip
    assert statistics.exact_interval(0, 0).as_json()["estimate"] is None
    mean = statistics.paired_mean([1.0, 2.0, 4.0], [0.0, 0.0, 0.0]).as_json()
    assert set(mean) == {"estimate", "interval", "seeds"} and mean["seeds"] == 3


def test_a_family_keeps_its_keys():
    family = {name: claim(*arms(0.0, seeds=20, seed=i)) for i, name in enumerate("abc")}
    found = claims.controlled_by_key(family)
    assert list(found.values()) == claims.controlled(list(family.values()))
    assert list(found) == list("abc")


# --- Verdicts -------------------------------------------------------------------------------------


def test_verdicts_follow_the_interval():
    assert claim(*arms(0.5)).verdict == "confirmed"
    assert claim(*arms(-0.5)).verdict == "refuted"
    undecided = claim(*arms(0.01, seeds=8, seed=1))
    assert undecided.verdict == "undecided" and undecided.more_seeds > 0
    # No difference that would matter: the interval ends below the least one.
    assert claim(*arms(0.0), least=0.1).verdict == "refuted"
    assert claim(*arms(0.05, noise=1.0, seeds=8, seed=1), least=0.1).verdict == "undecided"


def test_more_seeds_decide():
    first, second = arms(0.04, seeds=12, noise=0.12, seed=3)
    found = claim(first, second)
    assert found.verdict == "undecided"
    times = int(np.ceil((12 + found.more_seeds) / 12))
    again = claim(np.tile(first, times), np.tile(second, times))
    assert again.verdict != "undecided"


def test_a_family_of_nothing_loses_most_of_its_discoveries_and_keeps_real_ones():
    nothing = [claim(*arms(0.0, seeds=20, seed=s)) for s in range(100, 160)]
    decided = lambda rows: sum(c.verdict in ("confirmed", "refuted") for c in rows)  # noqa: E731
    assert decided(nothing) >= 1  # one in 20 by chance
    real = claim(*arms(1.0, seeds=20, seed=99))
    found = claims.controlled([*nothing, real])
    assert found[-1].verdict == "confirmed"
    assert decided(found[:-1]) < decided(nothing)
    ranked = sorted(c.p_value for c in (*nothing, real))
    wanted = min(p * 61 / (i + 1) for i, p in enumerate(ranked))  # Benjamini-Hochberg by hand
    assert min(c.p_value for c in found) == pytest.approx(wanted)


def test_claims_are_plain_json_and_make_a_page(tmp_path):
    rows = [claim(*arms(0.5)), claim(*arms(0.0, seeds=4))]
    rows.append(rows[0]._replace(source="Lu et al.", verdict="conditional", condition="deep"))
    summary = {"claims": [json.loads(json.dumps(row.as_json(), allow_nan=False)) for row in rows]}
    page = claims.write_page(tmp_path / "claims.md", [("run it", summary)], "figures").read_text()
    assert page.index("dying-ReLU problem") < page.index("## Lu et al.")
    assert "1 confirmed, 0 refuted, 1 conditional, 1 undecided" in page
    assert "Condition: deep" in page and "more seeds" in page and "`run it`" in page
    assert page.count("| [more die](#more-die") == 3 and '<a id="more-die-3"></a>' in page
    summary["claims"][0]["verdict"] = "holds"
    with pytest.raises(ValueError, match="verdict='holds' is not known"):
        claims.write_page(tmp_path / "claims.md", [("run it", summary)], "figures")


FINITE = st.floats(-1e6, 1e6)


@settings(max_examples=100, deadline=None)
@given(
    ends=st.one_of(st.none(), st.tuples(FINITE, FINITE).map(sorted)),
    estimate=st.one_of(st.none(), st.floats(allow_nan=True)),
    more=st.one_of(st.none(), st.just(np.inf), st.integers(1, 10**6).map(float)),
    verdicts=st.lists(st.sampled_from(claims.VERDICTS), min_size=1, max_size=6),
    words=st.text("ab |[]`1.", min_size=1, max_size=20),
)
def test_every_claim_is_one_row_and_one_entry(
    ends, estimate, more, verdicts, words, tmp_path_factory
):
    overall = claims.Claim(words, "us", "undecided", "F.", estimate, ends, "n", "d")
    parts = {str(i): overall._replace(verdict=v, more_seeds=more) for i, v in enumerate(verdicts)}
    row = json.loads(json.dumps(claims.combined(overall, parts).as_json(), allow_nan=False))
    path = tmp_path_factory.mktemp("page") / "claims.md"
    page = claims.write_page(path, [("run it", row and {"claims": [row]})], "figures").read_text()
    line = next(line for line in page.splitlines() if "](#" in line)
    cells = re.split(r"(?<!\\)\|", line)
    assert len(cells) == 6  # four cells between five bars, whatever the words hold
    place = re.search(r"\]\(#(.*?)\)", line)[1]
    assert place and f'<a id="{place}"></a>' in page
    assert not re.search(r"\bnan\b|\binf\b|\d\.0 more", page)
    for name in set(verdicts):  # a claim whose settings disagree says how many say what
        said = f"{name} in {verdicts.count(name)}" if len(set(verdicts)) > 1 else name
        assert said in cells[2]
    assert ("more seed" in page or "no number" in page) == (
        row["verdict"] == "undecided" and "undecided" in verdicts and more is not None
    )


# --- Hazards --------------------------------------------------------------------------------------


def chain(death, recovery, seeds, evaluations, layers=(4, 6), rng=0):
    """A result whose units are independent two-state chains from all alive."""
    draw = np.random.default_rng(rng)
    units = sum(layers)
    alive = np.ones((1, seeds, units), bool)
    died, back = [np.zeros(alive.shape)], [np.zeros(alive.shape)]
    for _ in range(evaluations):
        luck = draw.uniform(size=alive.shape)
        dies, recovers = alive & (luck < death), ~alive & (luck < recovery)
        alive = (alive & ~dies) | recovers
        died.append(dies)
        back.append(recovers)
    layer_of = np.repeat([1, 2], layers)
    shares = lambda events: np.stack(  # noqa: E731
        [np.stack(events, 2)[..., layer_of == i].mean(-1) for i in (1, 2)], -1
    )
    grid = make_grid(CONFIG, {"learning_rate": [0.1]}, seeds)
    dims = ("learning_rate", "seed", "probe_step", "layer")
    return xr.Dataset(
        {
            "layer_died": (dims, shares(died)),
            "layer_recovered": (dims, shares(back)),
            "dead_at_start": (("learning_rate", "seed", "unit"), np.zeros(alive.shape, bool)),
            "diverged_at": (("learning_rate", "seed"), np.full((1, seeds), -1)),
        },
        {
            "learning_rate": [0.1],
            "seed": np.arange(seeds),
            "layer": [1, 2],
            "probe_step": 25 * np.arange(evaluations + 1),
            "unit_layer": ("unit", layer_of),
        },
        {"identity": json.dumps(grid.identity)},
    ), alive


def test_hazards_of_a_two_state_chain_are_its_rates():
    death, recovery = 0.05, 0.1
    result, alive = chain(death, recovery, seeds=300, evaluations=80)
    found = estimates.hazards(result, windows=2).isel(learning_rate=0)
    for window in (0, 1):
        at = found.isel(window=window)
        for name, rate in (("death", death), ("recovery", recovery)):
            error = (rate * (1 - rate) / float(at[f"{name}_exposure"])) ** 0.5
            assert abs(float(at[name]) - rate) < 5.5 * error
            assert at[f"{name}_low"] < at[name] < at[f"{name}_high"]
            width = float(at[f"{name}_high"] - at[f"{name}_low"])
            assert width == pytest.approx(2 * 1.96 * error, rel=0.25)
        # Its standard error is about 0.22 * sqrt(2 / 4000) = 0.005.
        assert abs(float(at.stationary) - death / (death + recovery)) < 0.03
        assert at.stationary_low < at.stationary < at.stationary_high
    assert float(found.observed[-1]) == pytest.approx(1 - alive.mean())
    # A chain this long has come to its balance.
    assert float(found.observed[-1]) == pytest.approx(float(found.stationary[-1]), abs=0.05)
    assert int(found.death_exposure.sum() + found.recovery_exposure.sum()) == 300 * 10 * 80


def test_hazards_of_a_layer_and_of_diverged_runs():
    result, alive = chain(0.1, 0.0, seeds=40, evaluations=8)
    second = estimates.hazards(result, layer=2, windows=1).isel(learning_rate=0, window=0)
    assert float(second.observed) == pytest.approx(1 - alive[0, :, 4:].mean())
    assert float(second.recovery_events) == 0 and float(second.stationary) == 1
    result["diverged_at"][0, :20] = 30
    half = estimates.hazards(result, layer=2, windows=1).isel(learning_rate=0, window=0)
    assert float(half.observed) == pytest.approx(1 - alive[0, 20:, 4:].mean())
    with pytest.raises(ValueError, match="windows=9"):
        estimates.hazards(result, windows=9)


# --- Studies --------------------------------------------------------------------------------------


def small(activation, seeds=2):
    config = Config(
        task="abs", examples=16, batch_size=8, hidden=(3,), biased_layer=1, biased_units=1,
        initial_bias=-4.0, steps=4, probe_every=2, sustain=2, activation=activation,
    )  # fmt: skip
    return make_grid(validate(config), {"learning_rate": [0.1]}, seeds)


@pytest.mark.slow
def test_a_study_is_stored_by_arm_and_opened_again(tmp_path):
    study = {"plain ReLU": small("relu"), "leaky (0.01)": small("leaky_relu")}
    results = studies.sweep_study(study, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leaky_0.01_", "plain_ReLU"]
    for name in study:
        stored = store.open_result(tmp_path / studies.folder_name(name)).load()
        xr.testing.assert_equal(results[name], stored)
    assert studies.question_hash(study) != studies.question_hash(study, {"more": 1})
    study["leaky  0.01"] = study.pop("leaky (0.01)")
    study["leaky_0.01"] = study["leaky  0.01"]
    with pytest.raises(ValueError, match="need names that differ"):
        studies.sweep_study(study, tmp_path)
