"""The report: five lines first, exports that agree, a page of its own, and the command.

The page is also opened in a real headless Chromium; that is skipped, and says so, where there is
none.
"""

import json
import pathlib
import re
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from relu_dynamics import cli, inspection
from relu_dynamics.certificates import Verdict
from relu_dynamics.diagnose import __main__ as command
from relu_dynamics.diagnose import page as pages
from relu_dynamics.diagnose import write_page
from relu_dynamics.inspection.forecasts.smallest_change import Tried
from relu_dynamics.inspection.prognosis.prognosis import Prognosis
from relu_dynamics.inspection.records import monitor
from relu_dynamics.inspection.records.causes import Causes
from relu_dynamics.inspection.report import fixes
from tests.browser import asked_of_the_network, complaints, open_page

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (600, 6))


@pytest.fixture(autouse=True, scope="module")
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def model(p, x):
    h = jnp.maximum(x @ p["<first>"]["kernel"] + p["<first>"]["bias"], 0)
    h = jax.nn.relu6(h @ p["second"]["kernel"] + p["second"]["bias"])
    return h @ p["out"]


def params():
    """Of the first layer unit 0 lies far below, 1 a little; of the second 0 sees nothing that
    varies, 1 is stuck at the upper end, and 2 is NaN."""
    keys = jax.random.split(KEY, 3)
    first = {"kernel": jax.random.normal(keys[0], (6, 8)) / 3, "bias": jnp.zeros(8)}
    first["bias"] = first["bias"].at[:2].set(jnp.array([-50.0, -4.0]))
    kernel = jnp.abs(jax.random.normal(keys[1], (8, 5))).at[:, 0].set(0)
    bias = jnp.array([-1.0, 100.0, jnp.nan, 0.0, 0.0])
    return {"<first>": first, "second": {"kernel": kernel, "bias": bias}, "out": jnp.ones((5, 1))}


@pytest.fixture(scope="module")
def found():
    return inspection.diagnose(model, params(), [(X[:300],), (X[300:],)])


# The first five lines --------------------------------------------------------------------------


def test_five_lines_say_what_matters_most(found):
    lines = str(found).splitlines()
    assert lines[:5] == found.headline
    assert lines[0] == "3 of 13 units dead; worst layer: <first> with 2 of 8"
    assert lines[1].startswith("by definition: dead 3, flat 4, dormant ")
    assert "no example of 600 above the threshold" in lines[1]
    assert lines[2].startswith("cause: not known") and lines[3].startswith("prognosis: not asked")
    assert lines[4].startswith("cheapest fix: find the NaN (1 unit)")


def test_fixes_are_for_the_units_that_they_say_cheapest_first(found):
    assert {fix.fix: fix.units.tolist() for fix in found.fixes} == {
        "find the NaN": [10],
        "treat the layer below first": [8],
        "kick": [1],
        "redraw": [0, 9],
    }
    assert [fix.fix for fix in found.fixes] == [name for name in fixes.FIXES if name in
                                                {fix.fix for fix in found.fixes}]  # fmt: skip
    kick = next(fix for fix in found.fixes if fix.fix == "kick")
    below = -float(found.seen.margin[1])
    assert f"{below:.2g} (unit 1)" in kick.reason and "[1]" in kick.call
    assert all(fix.reason and fix.call and fix.unmeasured for fix in found.fixes)


@pytest.mark.slow
def test_a_kick_and_a_redraw_act_as_the_fix_says(found):
    """The calls that are named, made: they lift the units that they name."""
    state, tx = params(), optax.adam(1e-3)
    kick = next(fix for fix in found.fixes if fix.fix == "kick")
    names = dict(inspection=inspection, params=state, memory=tx.init(state), found=found, tx=tx,
                 key=KEY)  # fmt: skip
    treated = eval(kick.call, names)  # noqa: S307 (our own words)
    after = inspection.look(model, treated.params, [X])
    assert treated.proof(found.seen, after)["dead_after"] == 0


def test_few_examples_prove_no_death():
    few = inspection.diagnose(model, params(), [X[:20]])
    assert few.fixes[1].fix == "look at more examples"
    assert "silent on 20 examples" in few.fixes[1].reason
    bound = 1 - 0.05 ** (1 / 20)
    assert f"{bound:.2g} of all (95 %)" in few.fixes[1].reason


def test_a_healthy_network_needs_nothing():
    one = params()
    one["<first>"]["bias"] = jnp.ones(8)
    one["second"]["bias"] = jnp.zeros(5)
    one["second"]["kernel"] = jnp.ones((8, 5)) / 8
    healthy = inspection.diagnose(model, one, [X])
    assert healthy.headline[0] == "none of 13 units is dead" and not healthy.fixes
    assert healthy.headline[2:] == [
        "cause: nothing died", "prognosis: nothing to return", "cheapest fix: none needed",
    ]  # fmt: skip


def test_a_unit_that_fires_seldom_is_left_alone():
    one = params()
    one["<first>"]["bias"] = jnp.ones(8).at[3].set(0.0)
    one["<first>"]["kernel"] = one["<first>"]["kernel"].at[:, 3].mul(0.1)
    one["second"] = {"kernel": jnp.ones((8, 5)) / 8, "bias": jnp.zeros(5)}
    seldom = inspection.diagnose(model, one, [X])
    rate = float(seldom.seen.active[3]) / 600
    assert 0 < rate < 1 and [fix.fix for fix in seldom.fixes] == ["leave alone"]
    assert seldom.fixes[0].units.tolist() == [3] and f"for {rate:.2g} to" in seldom.fixes[0].reason


def prognosis(found, **verdicts):
    """A `Prognosis` by hand: POSSIBLE where nothing is said."""
    units = found.probe.units
    margin = np.asarray(found.seen.margin, np.float64)
    verdict = np.where(margin > 0, Verdict.NOT_DEAD, Verdict.POSSIBLE).astype(np.uint8)
    step = np.full(units, -1, np.int32)
    for unit, at in verdicts.items():
        k = int(unit.removeprefix("unit"))
        verdict[k] = Verdict.CERTIFIED_NEVER if at is None else Verdict.CERTIFIED_AT
        step[k] = -1 if at is None else at
    nothing = np.full(units, np.nan)
    return Prognosis(verdict, step, ("t",) * units, ("r",) * units, margin, nothing, nothing,
                     np.zeros(units, bool))  # fmt: skip


def test_a_unit_that_returns_by_itself_is_waited_for(found):
    known = found._replace(prognosis=prognosis(found, unit0=None, unit1=812))
    assert known.headline[3] == (
        "prognosis: never 1, at a known step 1, possible 1 (first return at step 812 from now)"
    )
    wait = next(fix for fix in known.fixes if fix.fix == "wait")
    assert wait.units.tolist() == [1] and "step 812" in wait.reason
    assert "kick" not in [fix.fix for fix in known.fixes]
    assert known.frame["prognosis"].tolist()[:3] == ["never", "at step", "not dead"]
    assert "at step 812: t" in str(known) and "possible: r" in str(known)


def change(units, value, now=0.001, name="learning rate"):
    """A `SmallestChange` by hand, in a network of 13 units."""
    of = np.isin(np.arange(13), units)
    tried = tuple(Tried(v, float(v == value) * 0.9, 0.62 * (v == value), 1.0, 16)
                  for v in (now, 0.02, 0.3))  # fmt: skip
    return inspection.SmallestChange(value, now, 0.5, 0.95, tried, name, of, ())


def test_the_smallest_change_that_is_enough_is_a_fix_and_waiting_never_leads(found):
    known = found._replace(
        prognosis=prognosis(found, unit0=812, unit1=812, unit8=9),
        changes=(change([0, 1, 5], 0.02), change([8], None), change([1], 0.001)),
    )
    names = [fix.fix for fix in known.fixes]
    assert names[0] == "find the NaN" and names[1] == "change one number"
    by_name = {fix.fix: fix for fix in known.fixes}
    assert by_name["change one number"].units.tolist() == [0, 1]  # unit 5 is alive
    assert by_name["change one number"].reason == (
        "learning rate 0.02 instead of 0.001 brings 2 units back: P = 0.90 [0.62, 1.00], 16 forks"
    )
    assert by_name["wait"].units.tolist() == [0, 1, 8] and names[-1] == "wait"
    assert "learning rate none of these (now 0.001" in str(known)
    none = found._replace(changes=(change([8], None), change([1], 0.001)))
    assert [fix.fix for fix in none.fixes] == [fix.fix for fix in found.fixes]


def test_rows_that_change_nothing_come_behind_rows_that_act():
    assert list(fixes.FIXES)[-2:] == ["wait", "leave alone"]


@pytest.mark.slow
def test_a_change_that_was_tried_by_forks_reaches_the_report():
    """A unit that lies a margin below: what `smallest_change` finds is the first fix that acts, and
    acts when it is done."""
    x, tx = X[:64], optax.sgd(0.01)
    fresh = {"first": {"kernel": jnp.eye(6), "bias": jnp.zeros(6).at[2].set(-6.0)},
             "out": jnp.ones((6, 1))}  # fmt: skip
    net = lambda p, x: jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"]) @ p["out"]  # noqa: E731

    def step(state, x):
        gradient = jax.grad(lambda p: jnp.mean(net(p, x) ** 2))(state)
        return jax.tree.map(lambda p, g: p - 0.01 * g, state, gradient)

    def lifted(by):
        first = fresh["first"] | {"bias": fresh["first"]["bias"].at[2].add(by)}
        return fresh | {"first": first}

    run = lambda by: inspection.forecast(  # noqa: E731
        step, lifted(by), inspection.draw_examples((x,), 16),
        lambda p: inspection.watch(net)(p, x)[1], steps=4, every=2, forks=16, key=KEY,
    )  # fmt: skip
    found = inspection.smallest_change(run, [2.0, 8.0], now=0.0, refine=4, name="bias of unit 2")
    assert found.units.tolist() == [k == 2 for k in range(6)]
    known = inspection.diagnose(net, fresh, [x], changes=[found], tx=tx, memory=tx.init(fresh))
    assert known.fixes[-1].fix != "change one number" or len(known.fixes) == 1
    fix = next(one for one in known.fixes if one.fix == "change one number")
    assert f"bias of unit 2 {found.value:.4g} instead of 0" in fix.reason
    after = inspection.look(net, lifted(found.value), [x])
    assert known.dead.tolist() == [2] and float(after.margin[2]) > 0


def test_the_optimizer_lets_a_prognosis_be_made():
    tx, state = optax.sgd(0.1), params()
    asked = inspection.diagnose(model, state, [X], tx=tx, memory=tx.init(state))
    assert asked.prognosis is not None and len(asked.prognosis.verdict) == 13
    assert asked.headline[3].startswith("prognosis: never ")
    with pytest.raises(ValueError, match="batches is read twice for a prognosis"):
        inspection.diagnose(model, state, iter([X]), tx=tx, memory=tx.init(state))


def test_facts_of_other_units_are_refused(found):
    record = monitor.start(jax.tree.map(lambda leaf: leaf[:4], found.seen))
    with pytest.raises(ValueError, match="monitor is of 4 units, and .* have 13"):
        inspection.diagnose(model, params(), [X], monitor=record)
    short = change([0], 0.02)._replace(units=np.ones(4, bool))
    with pytest.raises(ValueError, match=r"changes\[1\] is of 4 units"):
        inspection.diagnose(model, params(), [X], changes=[change([0], 0.02), short])
    with pytest.raises(ValueError, match="gradient is of 5 units"):
        inspection.diagnose(model, params(), [X], gradient=np.ones(5))


@pytest.mark.slow
def test_a_monitor_adds_its_definitions_its_past_and_what_killed():
    """Units 0 and 1 alive at first, then buried: unit 0 by the decay and unit 1 by the gradient."""
    before, after = params(), params()
    for one in (before, after):  # a run with NaN is diverged: neither dead nor alive
        one["second"]["bias"] = one["second"]["bias"].at[2].set(0.0)
    before["<first>"]["bias"] = jnp.zeros(8)
    record = monitor.start(inspection.look(model, before, [X]))
    seen = inspection.look(model, after, [X])
    for _ in range(3):
        record = monitor.update(record, seen)
    zero = jnp.zeros(13)
    fallen = seen.margin - record.history.margin
    parts = [zero, zero.at[0].set(fallen[0]), zero.at[1].set(fallen[1]), zero]
    record = monitor.account(record, Causes(*parts))
    record = monitor.evaluate(record, seen, since=3)
    known = inspection.diagnose(model, after, [X], monitor=record)
    assert "silent" in known.defined and known.frame["silent_steps"].tolist()[:3] == [3, 3, 0]
    assert known.headline[2] == "cause: decay 1, gradient 1, no death recorded 1"
    by_name = {fix.fix: fix.units.tolist() for fix in known.fixes}
    assert by_name["lower the weight decay"] == [0]
    assert by_name["lower the learning rate or clip"] == [1]
    assert known.frame["last_death"].tolist()[:3] == [3, 3, -1]


def test_every_cause_has_a_remedy():
    killers = [fix for fix in fixes.FIXES.values() if "prevents the next death" in fix.unmeasured]
    assert len(killers) == len(Causes._fields)


# Exports ---------------------------------------------------------------------------------------


def test_all_exports_hold_the_same_numbers(found):
    frame, data, plain = found.frame, found.to_xarray(), json.loads(found.to_json())
    assert len(frame) == data.sizes["unit"] == len(plain["each_unit"]) == 13
    for name in found.defined:
        assert data[name].dtype == bool
        assert data[name].values.tolist() == frame[f"is_{name}"].tolist()
        assert data[name].values.tolist() == [row[f"is_{name}"] for row in plain["each_unit"]]
    assert frame["site"].tolist() == ["<first>"] * 8 + ["second"] * 5 == data.site.values.tolist()
    np.testing.assert_array_equal(frame["margin"], found.seen.margin)
    assert data.attrs["definition_of_dead"].startswith("dead: no example")
    assert {k: data.attrs[k] for k in ("level", "units", "dead", "examples")} == {
        "level": 0.95, "units": 13, "dead": 3, "examples": 600,
    }  # fmt: skip
    assert plain["sites"] == found.rows and plain["dead"] == 3
    assert plain["each_unit"][10]["margin"] is None  # NaN, which JSON does not have
    assert [fix["units"] for fix in plain["fixes"]] == [fix.units.tolist() for fix in found.fixes]


# The page --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "diagnosis.html"
    assert write_page(found, path) == path
    return path


def data_of(page):
    text = page.read_text()
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def test_the_page_loads_nothing_and_what_a_model_says_stays_data(page, found):
    text = page.read_text()
    assert "default-src 'none'" in text and "unsafe-eval" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "<first>" not in text and data_of(page)["sites"][0]["site"] == "<first>"
    assert data_of(page)["headline"] == found.headline and len(text) < 60_000


def test_the_histogram_counts_every_margin_on_its_side_of_0(page, found):
    for row in data_of(page)["sites"]:
        part = found.probe.slices[row["site"]]
        margin = np.asarray(found.seen.margin)[part]
        shown = row["histogram"]
        edges, dead, others = (np.array(shown[name]) for name in ("edges", "dead", "others"))
        assert dead.sum() == row["dead"] == int((margin <= 0).sum())
        assert others.sum() == int((margin > 0).sum())
        assert dead[edges[1:] > 1e-9].sum() == 0 and others[edges[:-1] < -1e-9].sum() == 0


@pytest.mark.parametrize("margin", [[0.0], [-2.0, 0.0], [3.0], [0.0, 0.0, 5.0], [-1e-8, 2.0]])
def test_margins_on_one_side_have_a_histogram_too(margin):
    values = np.array(margin)
    shown = pages.histogram_of(values, values <= 0)
    assert sum(shown["dead"]) == (values <= 0).sum() and sum(shown["others"]) == (values > 0).sum()
    assert (np.diff(shown["edges"]) > 0).all()


def test_a_page_that_cannot_be_written_is_said(found, tmp_path):
    with pytest.raises(ValueError, match="choose another"):
        write_page(found, tmp_path / "no" / "page.html")


def test_in_a_browser_it_sorts_shows_a_layer_and_a_unit_and_asks_for_nothing(chromium, page, found):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(chromium, page)
    text = lambda name: chromium.find_element(By.ID, name).text  # noqa: E731
    rows = lambda: [r.text.split()[0] for r in chromium.find_elements(By.CSS_SELECTOR, "#sites tbody tr")]  # noqa: E501, E731  # fmt: skip
    assert text("headline").splitlines() == found.headline
    assert rows() == ["<first>", "second"] and text("unit_heading") == "Unit 0 of <first>"
    margin = chromium.find_element(By.XPATH, "//dt[.='margin']/following-sibling::dd").text
    assert float(margin) == pytest.approx(float(found.seen.margin[0]), rel=1e-3)

    units = chromium.find_element(By.XPATH, "//thead//button[.='units']")
    units.click()  # descending, then ascending
    chromium.find_element(By.XPATH, "//thead//button[.='units']").click()
    assert rows() == ["second", "<first>"]
    chromium.find_element(By.CSS_SELECTOR, "#sites tbody tr").send_keys(Keys.ENTER)
    assert text("histogram_heading") == "second: margins of its units"
    assert text("unit_heading") == "Unit 2 of second"  # the NaN comes first
    grid = chromium.find_elements(By.CSS_SELECTOR, "#grid button")
    assert [b.get_attribute("class") for b in grid] == ["dead", "flat", "invalid", "alive", "alive"]
    grid[1].click()
    assert text("unit_heading") == "Unit 1 of second"
    flat = chromium.find_element(By.XPATH, "//dt[.='is flat']/following-sibling::dd").text
    assert flat == "yes" and len(chromium.find_elements(By.CSS_SELECTOR, "#histogram rect")) > 1
    assert complaints(chromium) == [] and asked_of_the_network(chromium) <= {"file", "data"}


# The command -----------------------------------------------------------------------------------

PROGRAM = """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.Dense(8, name="first")(x)))

    linen = MLP()
    params = linen.init(jax.random.key(0), jnp.ones((1, 6)))
    params["params"]["first"]["bias"] = jnp.full(8, -1.0).at[3].set(-99.0)
    build = lambda: (linen.apply, params)
    pair = (linen.apply, params)
    function = lambda params, x: linen.apply({"params": params}, x)
    loss = lambda params, x, y: ((linen.apply({"params": params}, x) - y) ** 2).mean()
    def broken(): return 1 / 0
    def rough(params, x): return params["absent"] @ x
    text = "text"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "programs.py").write_text(textwrap.dedent(PROGRAM))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "programs", raising=False)
    np.save("x.npy", np.asarray(X))
    np.savez("x.npz", x=np.asarray(X, np.float64))
    np.savez("xy.npz", inputs=X, targets=X[:, :1])
    names = ",".join("abcdef")
    np.savetxt("x.csv", np.asarray(X), delimiter=",", header=names, comments="")
    import programs

    pathlib.Path("p.msgpack").write_bytes(serialization.to_bytes(programs.params))
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["diagnose", *arguments])
    monkeypatch.setattr(cli, "guard", lambda call: call())
    command.main()


@pytest.mark.parametrize(
    "arguments",
    [
        "programs:build --data x.npy",
        "programs:pair --data x.npz --batch-size 64",
        "programs:linen --data x.csv --params p.msgpack",
        "programs:function --data xy.npz --params p.msgpack",
        "programs:loss --data xy.npz --arrays inputs targets --params p.msgpack",
        "programs:build --data x.npy --params p.msgpack",
    ],
)
def test_the_command_finds_the_dead_unit_of_every_kind_of_program(
    folder, monkeypatch, capsys, arguments
):
    run(monkeypatch, *arguments.split(), "--json", "out.json", "--out", "out.html")
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 8 units dead; worst layer: first with 1 of 8")
    assert "wrote out.json" in printed and "wrote out.html" in printed
    plain = json.loads(pathlib.Path("out.json").read_text())
    assert [row["unit"] for row in plain["each_unit"] if row["is_dead"]] == [3]
    assert plain["examples"] == 600 and data_of(folder / "out.html")["sites"][0]["dead"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "the following arguments are required"),
        ("programs:build", "required: --data"),
        ("programs --data x.npy", "must be module:name"),
        ("programs:lines --data x.npy", 'has no \'lines\'; did you mean "linen"?'),
        ("nowhere:build --data x.npy", "'nowhere' cannot be imported"),
        ("programs:broken --data x.npy", "failed when it was called: ZeroDivisionError"),
        ("programs:text --data x.npy", "is 'text'; give a function"),
        ("programs:function --data x.npy", "give them with --params FILE"),
        ("programs:build --data absent.npy", "data='absent.npy' cannot be read: No such file"),
        ("programs:build --data programs.py", "data's ending='.py' is not known"),
        ("programs:build --data x.npz --arrays z", "arguments by arrays=; it holds x"),
        ("programs:loss --data xy.npz --params p.msgpack", "missing 1 required"),
        ("programs:rough --data x.npy --params p.msgpack", "KeyError: 'absent'"),
        ("programs:build --data x.npy --batch-size 0", "--batch-size 0 must be at least 1"),
        ("programs:build --data x.npy --exclude all", "exclude=['all'] names no site"),
        ("programs:build --data x.npy --out no/page.html", "no/page.html"),
        ("programs:build --data x.npy --params absent.msgpack", "does not exist"),
    ],
)  # fmt: skip
def test_the_command_says_in_one_line_what_is_wrong(folder, ended, arguments, words):
    done = ended(command.main, *arguments.split())
    assert done.returncode == (4 if "no/page" in arguments else 2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr and "Traceback" not in done.stderr
