"""The explorer: one page, self-contained, with the numbers of `estimates`, usable without a mouse.

The second half drives a real headless Chromium through its local driver; it is skipped, and says
so, where there is none.
"""

import builtins
import json
import pathlib
import re
import sys

import numpy as np
import pytest
import xarray as xr

import relu_dynamics
from relu_dynamics import cli, explorer, store
from relu_dynamics.config import Config
from relu_dynamics.explorer import __main__ as command
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.sweep import sweep
from tests.browser import asked_of_the_network, complaints, open_page

pytest.importorskip("bokeh", reason="bokeh (the extra `explorer`) is not installed")

SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=40, probe_every=10, sustain=20, optimizer="momentum", momentum=0.9,
)  # fmt: skip
RATES, BIASES = [0.01, 0.1, 1.0], [-3.0, -1.0]
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=alert(1)>&\u2028"


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    axes = {"learning_rate": RATES, "initial_bias": BIASES}
    made = sweep(SMALL, axes, 3, lanes=4)
    return made.assign_attrs(command=HOSTILE)


@pytest.fixture(scope="module")
def three_axes() -> xr.Dataset:
    axes = {"initial_bias": BIASES, "learning_rate": [0.1, 3.0], "momentum": [0.5, 0.9]}
    return sweep(SMALL, axes, 2, lanes=4)


@pytest.fixture(scope="module")
def page(result, three_axes, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    results = {HOSTILE: result, "with momentum": three_axes}
    assert relu_dynamics.explore(results, path) == path
    return path


def data_of(page: pathlib.Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found
    return json.loads(found[1])


# --- Without a browser ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_loads_nothing_and_forbids_it(page):
    text = page.read_text()
    assert len(text.encode()) < 1_600_000
    assert "default-src 'none'" in text and "unsafe-eval" not in text
    own = text[: text.index("/* BEGIN bokeh")] + text[text.rindex('"use strict";') :]
    assert not re.search(r"https?://", own)
    assert not re.search(r"<(link|img|iframe|script)[^>]*(src|href)=(?!\"data:,)", own)


def test_its_numbers_are_those_of_estimates(page, result):
    first = data_of(page)["maps"][0]
    assert [axis["values"] for axis in first["axes"]] == [["0.01", "0.1", "1"], ["-3", "-1"]]
    assert set(first["measures"]) == set(estimates.MEASURES)
    for measure, rows in first["measures"].items():
        wanted = estimates.cells(result, measure)
        for name in ("successes", "trials", "runs"):
            assert rows[name] == wanted[name].values.ravel().tolist()
        for name in ("estimate", "low", "high"):
            found = np.array(rows[name], float)
            np.testing.assert_allclose(found, wanted[name].values.ravel(), rtol=6e-4, atol=1e-12)


def test_its_curves_end_at_the_estimate_and_carry_intervals(page, result):
    first = data_of(page)["maps"][0]
    cells = estimates.cells(result, "recovered_ever")
    for i, curve in enumerate(first["incidence"]):
        trials = int(cells.trials.values.ravel()[i])
        assert (
            curve["trials"] == trials
            and len(curve["recovered"][0]) == len(first["evaluations"]) == 5
        )
        if trials:
            assert curve["recovered"][0][-1] == pytest.approx(
                float(cells.estimate.values.ravel()[i]), rel=6e-4
            )
        for cause in ("recovered", "diverged"):
            estimate, low, high = np.array(curve[cause], float)
            assert ((low <= estimate) & (estimate <= high) | np.isnan(estimate)).all()
            assert (high > low).all()  # an interval at every evaluation, with no event too


def test_its_outcomes_add_up(page, result):
    outcomes = data_of(page)["maps"][0]["outcomes"]
    counts = np.sum([row["count"] for row in outcomes["rows"].values()], axis=0)
    assert outcomes["units"] == 3 * SMALL.biased_units and (counts == outcomes["units"]).all()
    wanted = estimates.outcome_counts(result)
    still = outcomes["rows"]["still dead"]["count"]
    assert still == wanted.still_dead.values.ravel().tolist()


def test_a_ribbon_is_the_stored_run(page, result):
    """Every cell has one, and its ends are the stored margins of the unit that it names."""
    first = data_of(page)["maps"][0]
    run = re.search(r"Seed (\d+) in every cell", first["ribbon_note"])
    assert run and "cells have no ribbon" not in first["ribbon_note"]
    for i, ribbon in enumerate(first["ribbons"]):
        unit, layer = re.findall(r"\d+", ribbon["unit"].replace("(from 0)", ""))[:2]
        at = result.isel(learning_rate=i // 2, initial_bias=i % 2).sel(seed=int(run[1]))
        at = at.isel(unit=8 * (int(layer) - 1) + int(unit))
        assert bool(at.biased)
        ends = [float(at.margin_at_start), float(at.margin)]
        assert [ribbon["margin"][0], ribbon["margin"][-1]] == pytest.approx(ends, rel=6e-4)
        order = np.array([ribbon[name] for name in ("minimum", "mean", "margin")])
        assert (np.diff(order, axis=0) >= -1e-3 * np.abs(order[1:])).all()


def test_a_further_axis_becomes_maps_of_their_own(page, three_axes):
    maps = data_of(page)["maps"]
    assert [each["name"] for each in maps[1:]] == [
        "with momentum, momentum 0.5",
        "with momentum, momentum 0.9",
    ]
    wanted = estimates.cells(three_axes, "recovered").trials.isel(momentum=1)
    assert maps[2]["measures"]["recovered"]["trials"] == wanted.values.ravel().tolist()
    assert all(ribbon is not None for each in maps for ribbon in each["ribbons"])


def test_a_result_that_cannot_be_trained_again_has_no_ribbons(result, tmp_path):
    identity = json.loads(result.attrs["identity"]) | {"jax_version": "0.0.1"}
    other = result.assign_attrs(identity=json.dumps(identity))
    first = data_of(explorer.explore(other, tmp_path / "a.html"))["maps"][0]
    assert first["ribbons"] == [None] * 6 and "jax_version" in first["ribbon_note"]
    changed = result.copy(deep=True)
    changed["margin"][1, 0] += 1
    first = data_of(explorer.explore(changed, tmp_path / "b.html"))["maps"][0]
    assert [ribbon is None for ribbon in first["ribbons"]] == [False, False, True] + [False] * 3
    assert "1 cells have no ribbon" in first["ribbon_note"]


def test_a_part_of_a_result_with_one_value_of_an_axis(result, tmp_path):
    part = result.isel(learning_rate=[1, 2], initial_bias=[0], seed=[0, 2])
    first = data_of(explorer.explore(part, tmp_path / "part.html"))["maps"][0]
    wanted = estimates.cells(part, "recovered").trials.values.ravel().tolist()
    assert first["measures"]["recovered"]["trials"] == wanted and all(first["ribbons"])


def test_what_a_result_says_of_itself_stays_data(page):
    text = page.read_text()
    assert "<script>document.title" not in text and "onerror=alert(1)>" not in text
    first = data_of(page)["maps"][0]
    assert first["name"] == HOSTILE and ["command", HOSTILE] in first["provenance"]


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda r: 3, "result=3 must be a result of sweep or open_result"),
        (lambda r: {}, "result={} must be a result"),
        (lambda r: xr.Dataset(), "has no attribute `identity`"),
        (lambda r: {"a": r.loss}, "'a' has no attribute `identity`"),
        (lambda r: r.assign_attrs(identity="[" * 100_000), "`identity` is not a grid's"),
        (lambda r: r.assign_attrs(identity='{"axes": [], "config": {}}'), "lacks task"),
        (lambda r: r.isel(initial_bias=0), "axis initial_bias is no dimension; keep it"),
        (lambda r: r.drop_vars("first_recovery"), "lacks first_recovery over"),
        (lambda r: r.isel(seed=[]), "holds no run"),
        (lambda r: dict.fromkeys(range(700), r), "4200 cells; a page holds at most 4096"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(result, tmp_path, give, words):
    with pytest.raises(ValueError) as caught:
        explorer.explore(give(result), tmp_path / "never.html")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "never.html").exists()


def test_a_page_that_cannot_be_written_is_said(result, tmp_path):
    with pytest.raises(store.NotWritableError, match="choose another"):
        explorer.explore(result.isel(learning_rate=[0]), tmp_path / "no" / "page.html")


def test_without_bokeh_the_message_says_what_to_install(result, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "bokeh":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(explorer.MissingBokehError, match="pip install bokeh"):
        explorer.explore(result)


def test_the_command_writes_the_page_of_folders(tmp_path, monkeypatch, capsys):
    axes = {"learning_rate": [0.1, 1.0]}  # one axis: a row
    for name in ("one", "two"):
        sweep(SMALL, axes, 2, lanes=4, out=tmp_path / name)
    out = tmp_path / "page.html"
    arguments = [str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["explorer", *arguments])
    monkeypatch.setattr(cli, "guard", lambda call: call())
    command.main()
    assert capsys.readouterr().out == f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)\n"
    maps = data_of(out)["maps"]
    assert [each["name"] for each in maps] == ["one", "two"] and all(maps[0]["ribbons"])
    assert [len(each["axes"]) for each in maps] == [1, 1]


def test_the_command_says_in_one_line_what_is_missing(tmp_path, ended):
    done = ended(command.main, str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "run the experiment first" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --- In a real browser ---------------------------------------------------------------------------

PIXEL_OF_CELL = """
const find = (views) => {
  for (const view of views) {
    const found = view.model.name === "map_plot" ? view : find(view.children?.() ?? []);
    if (found) return found;
  }
};
const view = find(Bokeh.index.roots);
const [box, map] = [view.el, document.getElementById("map")].map((e) => e.getBoundingClientRect());
return [box.left + view.frame.x_scale.compute(arguments[0] + 0.5) - map.left - map.width / 2,
        box.top + view.frame.y_scale.compute(arguments[1] + 0.5) - map.top - map.height / 2];
"""


@pytest.fixture
def opened(chromium, page):
    open_page(chromium, page)
    return chromium


def text(driver, name: str) -> str:
    return driver.execute_script(
        "return document.getElementById(arguments[0]).textContent.replace(/\\s+/g, ' ')", name
    )


def choose(driver, name: str, option: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", name)).select_by_visible_text(option)


def panels(driver) -> list[str]:
    return [text(driver, f"{name}_table") for name in ("incidence", "outcomes", "ribbon")]


def column(driver, plot: str, source: str, name: str) -> list:
    """A column of what a plot draws."""
    return driver.execute_script(
        "for (const d of Bokeh.documents) { const s = d.get_model_by_name(arguments[1]);"
        " if (s) return Array.from(s.data[arguments[2]]); }", plot, source, name,
    )  # fmt: skip


def test_it_loads_without_errors_and_asks_the_network_for_nothing(opened):
    assert complaints(opened) == []
    asked = asked_of_the_network(opened)
    assert "file" in asked and asked <= {"file", "data", "blob"}
    assert opened.title.startswith("ReLU units that die and recover")
    assert opened.execute_script("return document.querySelectorAll('img').length") == 0
    canvases = "return [...document.querySelectorAll('.plot')].map((p) => p.clientHeight)"
    assert min(opened.execute_script(canvases)) > 200


def test_a_click_on_a_cell_shows_that_cell(opened, result):
    from selenium.webdriver.common.action_chains import ActionChains

    for x, y in ((0, 1), (2, 0)):
        before = panels(opened)
        dx, dy = opened.execute_script(PIXEL_OF_CELL, x, y)
        target = opened.find_element("id", "map")
        ActionChains(opened).move_to_element_with_offset(target, dx, dy).click().perform()
        assert f"learning rate {RATES[x]:g}, initial bias {BIASES[y]:g}" in text(opened, "cell")
        cells = estimates.cells(result, "recovered")
        successes, trials = (int(cells[n][x, y]) for n in ("successes", "trials"))
        assert f"{successes} of {trials} units" in text(opened, "cell")
        after = panels(opened)
        assert all(old != new for old, new in zip(before, after, strict=True))
        assert column(opened, "map", "chosen", "x") == [f"{RATES[x]:g}"]


def test_keys_move_the_selection_and_tab_reaches_everything_once(opened):
    from selenium.webdriver.common.keys import Keys

    choose(opened, "x", "0.01")
    choose(opened, "y", "-3")
    area = opened.find_element("id", "map")
    seen = [text(opened, "cell")]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.END, Keys.HOME, Keys.ARROW_DOWN):
        area.send_keys(key)
        seen.append(text(opened, "cell"))
    places = [re.search(r"rate (\S+), initial bias (\S+?)P", line).groups() for line in seen]
    assert places == [
        ("0.01", "-3"), ("0.1", "-3"), ("0.1", "-1"), ("1", "-1"), ("0.01", "-1"), ("0.01", "-3"),
    ]  # fmt: skip
    assert "learning rate 0.01, initial bias -3" in area.get_attribute("aria-label")
    opened.execute_script("document.getElementById('measure').focus()")
    order = []
    for _ in range(12):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        order.append(
            opened.execute_script("const e = document.activeElement; return e.id || e.tagName")
        )
    assert order[:5] == ["result", "x", "y", "map", "SUMMARY"]
    assert not {"incidence", "outcomes", "ribbon", "DIV"} & set(order)


def test_the_measure_and_the_result_can_be_switched(opened):
    def value():
        return [
            v if isinstance(v, float | int) else None
            for v in column(opened, "map", "cells", "value")
        ]

    at_first, legend = value(), text(opened, "definition")
    choose(opened, "measure", "P(living unit dies)")
    assert value() != at_first and text(opened, "definition") != legend
    assert "alive on the probe set at step 0" in text(opened, "definition")
    assert "P(living unit dies)" in text(opened, "map_heading") + text(opened, "cell")
    before = text(opened, "provenance")
    choose(opened, "result", "with momentum, momentum 0.9")
    assert column(opened, "map", "cells", "x")[0] == "-3" and len(value()) == 4
    assert text(opened, "x_label") == "initial bias" and text(opened, "provenance") != before
    assert opened.title.startswith("ReLU units that die and recover")  # nothing of HOSTILE ran
    assert [line for line in opened.get_log("browser") if line["level"] == "SEVERE"] == []


def test_it_has_names_for_a_screen_reader_and_fits_a_narrow_window(opened):
    from selenium.webdriver.support.ui import WebDriverWait

    unnamed = opened.execute_script(
        "return [...document.querySelectorAll('select')].filter((s) => !s.labels.length"
        " || !s.labels[0].textContent).length + [...document.querySelectorAll("
        "'[role=img], [role=application], [role=region]')].filter("
        "(e) => !e.getAttribute('aria-label')).length"
    )
    assert unnamed == 0
    assert opened.execute_script("return document.documentElement.lang") == "en"
    assert opened.find_element("id", "cell").get_attribute("aria-live") == "polite"
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    width = "return document.documentElement.scrollWidth"
    try:  # plots follow the window a moment later
        WebDriverWait(opened, 20).until(lambda driver: driver.execute_script(width) <= 360)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
