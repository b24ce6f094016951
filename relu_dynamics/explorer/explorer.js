"use strict";
// Hands the numbers of the selected cell, measure and result to Bokeh's sources and to the tables.
// Everything that comes from a result is set as text, never as HTML.
(async () => {
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("data").textContent);
  const models = {};
  for (const [name, item] of Object.entries(JSON.parse(byId("plots").textContent))) {
    const views = await Bokeh.embed.embed_item(item, name);
    models[name] = views.roots[0].model.document;
  }
  const find = (plot, name) => models[plot].get_model_by_name(name);
  const selected = { map: 0, measure: Object.keys(page.measures)[0], x: 0, y: 0 };

  const number = (value) => {
    if (value === null) return "none";
    const plain = value === 0 || (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e5);
    return plain ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  };
  const interval = (low, high) => `[${number(low)}, ${number(high)}]`;
  const numbers = (row) => row.map((value) => (value === null ? NaN : value));
  const current = () => page.maps[selected.map];
  const values = (axis) => current().axes[axis]?.values ?? ["all"];
  const index = (x, y) => x * values(1).length + y;
  const cell = () => index(selected.x, selected.y);
  const where = (x, y) =>
    current().axes.map((axis, i) => `${axis.label} ${axis.values[[x, y][i]]}`).join(", ");

  function say(measure, i) {
    const rows = current().measures[measure];
    const ofRuns = page.measures[measure].of_runs;
    const among = ofRuns ? "runs" : "units";
    if (rows.trials[i] === 0) return { estimate: "no estimate", counts: `no ${among} to count` };
    return {
      estimate: `${number(rows.estimate[i])} ${interval(rows.low[i], rows.high[i])}`,
      counts: `${rows.successes[i]} of ${rows.trials[i]} ${among}` +
        (ofRuns ? "" : ` in ${rows.runs[i]} runs`),
    };
  }

  function options(select, texts, chosen) {
    select.replaceChildren(...texts.map((text, i) => new Option(text, i)));
    select.selectedIndex = chosen;
  }

  function table(id, caption, header, rows) {
    const element = document.createElement("table");
    element.createCaption().textContent = caption;
    const cellOf = (row, tag, text, scope) => {
      const made = document.createElement(tag);
      made.textContent = text;
      if (scope) made.scope = scope;
      row.append(made);
    };
    const top = element.createTHead().insertRow();
    header.forEach((text) => cellOf(top, "th", text, "col"));
    const body = element.createTBody();
    for (const [name, ...rest] of rows) {
      const row = body.insertRow();
      cellOf(row, "th", name, "row");
      rest.forEach((text) => cellOf(row, "td", text));
    }
    byId(id).replaceChildren(element);
  }

  function few(steps) {  // about ten rows of a table
    const every = Math.ceil((steps.length - 1) / 10) || 1;
    return steps.map((_, i) => i).filter((i) => i % every === 0 || i === steps.length - 1);
  }

  function drawResult() {
    const map = current();
    for (const [axis, name] of ["x", "y"].entries()) {
      selected[name] = Math.min(selected[name], values(axis).length - 1);
      find("map", name).factors = values(axis);
      find("map", `${name}_axis`).axis_label = map.axes[axis]?.label ?? "";
      byId(`${name}_label`).textContent = map.axes[axis]?.label ?? "";
      byId(name).parentElement.hidden = map.axes[axis] === undefined;
      options(byId(name), values(axis), selected[name]);
    }
    byId("caption").textContent = map.caption;
    byId("provenance").replaceChildren(...map.provenance.flatMap(([key, value]) => {
      const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = key.replaceAll("_", " ");
      detail.textContent = value;
      return [term, detail];
    }));
    drawMap();
  }

  function drawMap() {
    const { label, definition } = page.measures[selected.measure];
    const rows = current().measures[selected.measure];
    const [x, y] = [values(0), values(1)];
    const places = x.flatMap((_, i) => y.map((_, j) => [i, j]));
    const texts = places.map(([i, j]) => say(selected.measure, index(i, j)));
    find("map", "cells").data = {
      x: places.map(([i]) => x[i]),
      y: places.map(([, j]) => y[j]),
      value: numbers(rows.estimate),
      where: places.map(([i, j]) => where(i, j)),
      estimate: texts.map((text) => text.estimate),
      counts: texts.map((text) => text.counts),
    };
    const doubtful = places.filter((_, i) => rows.doubtful[i]);
    find("map", "doubtful").data = {
      x: doubtful.map(([i]) => x[i]), y: doubtful.map(([, j]) => y[j]),
    };
    byId("map_heading").textContent = label;
    byId("definition").textContent = `${label}: ${definition}. 95 % intervals: ${rows.method}.`;
    byId("legend").textContent = `Hatched: fewer than ${page.few_trials} counted, or an interval ` +
      `wider than ${page.wide_interval}. Grey: nothing to count.`;
    const [across, up] = current().axes.map((axis) => axis.label);
    table("cells_table", `${label}: estimate, 95 % interval, counted`,
      [up ? `${up} \\ ${across}` : across, ...x],
      y.map((name, j) => [name, ...x.map((_, i) => {
        const n = rows.trials[index(i, j)];
        return n ? `${say(selected.measure, index(i, j)).estimate}, n ${n}` : "n 0";
      })]));
    drawCell();
  }

  function drawCell() {
    const { x, y } = selected;
    find("map", "chosen").data = { x: [values(0)[x]], y: [values(1)[y]] };
    byId("x").selectedIndex = x;
    byId("y").selectedIndex = y;
    const texts = say(selected.measure, cell());
    const place = document.createElement("strong");
    place.textContent = `Cell: ${where(x, y)}`;
    byId("cell").replaceChildren(
      place,
      `${page.measures[selected.measure].label}: ${texts.estimate} (95 % interval), ${texts.counts}.`,
    );
    byId("map").setAttribute("aria-label", `Map of ${page.measures[selected.measure].label}. ` +
      `Selected: ${where(x, y)}: ${texts.estimate}, ${texts.counts}.`);
    drawIncidence();
    drawOutcomes();
    drawRibbon();
  }

  function drawIncidence() {
    const { evaluations, steps } = current();
    const curve = current().incidence[cell()];
    const data = { step: evaluations, observed: curve.observed };
    for (const cause of ["recovered", "diverged"]) {
      ["", "_low", "_high"].forEach((end, i) => { data[cause + end] = numbers(curve[cause][i]); });
    }
    find("incidence", "curves").data = data;
    find("incidence", "steps").end = steps;
    const at = (cause, i) => curve[cause][0][i] === null ? "no estimate"
      : `${number(curve[cause][0][i])} ${interval(curve[cause][1][i], curve[cause][2][i])}`;
    const last = evaluations.length - 1;
    const text = curve.trials === 0 ? "No unit of this cell is at risk."
      : `By step ${evaluations[last]}: recovered at least once ${at("recovered", last)}, ` +
        `diverged ${at("diverged", last)}, of ${curve.trials} units at risk (${current().definition} at step 0) in ` +
        `${curve.runs} runs.`;
    byId("incidence_note").textContent = `${text} Shaded: pointwise 95 % intervals; ` +
      `${curve.method}; divergence competes.`;
    byId("incidence").setAttribute("aria-label", `Cumulative incidence. ${text}`);
    table("incidence_table", "Share of the units at risk with the event by the step, 95 % interval",
      ["step", "recovered", "diverged", "still observed"],
      few(evaluations).map((i) =>
        [evaluations[i], at("recovered", i), at("diverged", i), curve.observed[i]]));
  }

  function drawOutcomes() {
    const { rows, units } = current().outcomes;
    const names = Object.keys(rows);
    const at = (name) => ({
      count: rows[name].count[cell()],
      share: rows[name].share.map((part) => part[cell()]),
    });
    const text = (name) => {
      const { count, share } = at(name);
      return `${count} of ${units}: ${number(share[0])} ${interval(share[1], share[2])}`;
    };
    find("outcomes", "bars").data = {
      outcome: names,
      share: names.map((name) => at(name).share[0]),
      low: names.map((name) => at(name).share[1]),
      high: names.map((name) => at(name).share[2]),
      label: names.map((name) => String(at(name).count)),
      numbers: names.map(text),
    };
    byId("outcomes_note").textContent = `Number at the bar: units, of the ${units} with the ` +
      "initial bias. Line: 95 % interval of the share, clustered by run.";
    byId("outcomes").setAttribute("aria-label",
      `Outcomes of ${units} units. ${names.map((name) => `${name} ${at(name).count}`).join(", ")}.`);
    table("outcomes_table", "Units of this cell by outcome", ["outcome", "units", "share [95 %]"],
      names.map((name) => {
        const { count, share } = at(name);
        return [name, count, `${number(share[0])} ${interval(share[1], share[2])}`];
      }));
  }

  function drawRibbon() {
    const { evaluations, steps, ribbons, ribbon_note } = current();
    const ribbon = ribbons[cell()];
    for (const part of ["ribbon", "ribbon_key", "ribbon_details"]) {
      byId(part).hidden = ribbon === null;
    }
    byId("ribbon_unit").textContent = ribbon ? `${ribbon.unit}.` : "No ribbon in this cell.";
    byId("ribbon_note").textContent = ribbon_note;
    if (ribbon === null) return;
    const [mean, deviation] = [numbers(ribbon.mean), numbers(ribbon.deviation)];
    find("ribbon", "steps").end = steps;
    find("ribbon", "evaluations").data = {
      step: evaluations,
      margin: numbers(ribbon.margin),
      mean,
      minimum: numbers(ribbon.minimum),
      above: mean.map((value, i) => value + deviation[i]),
      below: mean.map((value, i) => value - deviation[i]),
      active: numbers(ribbon.active_fraction),
    };
    const last = evaluations.length - 1;
    byId("ribbon").setAttribute("aria-label", `${ribbon.unit}. Largest z: ` +
      `${number(ribbon.margin[0])} at step 0, ${number(ribbon.margin[last])} at step ${evaluations[last]}.`);
    table("ribbon_table", "z of this unit over the probe set",
      ["step", "largest", "mean", "deviation", "smallest", "active share"],
      few(evaluations).map((i) => [evaluations[i], ...["margin", "mean", "deviation", "minimum",
        "active_fraction"].map((name) => number(ribbon[name][i]))]));
  }

  function move(x, y) {
    selected.x = Math.max(0, Math.min(x, values(0).length - 1));
    selected.y = Math.max(0, Math.min(y, values(1).length - 1));
    drawCell();
  }

  const moves = {
    ArrowLeft: () => move(selected.x - 1, selected.y),
    ArrowRight: () => move(selected.x + 1, selected.y),
    ArrowDown: () => move(selected.x, selected.y - 1),
    ArrowUp: () => move(selected.x, selected.y + 1),
    Home: () => move(0, selected.y),
    End: () => move(Infinity, selected.y),
  };
  byId("map").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  });
  const clicked = find("map", "cells").selected;
  clicked.properties.indices.change.connect(() => {
    if (clicked.indices.length === 0) return;
    const i = clicked.indices[0];
    clicked.indices = [];  // the black frame shows the selection
    move(Math.floor(i / values(1).length), i % values(1).length);
  });
  // Bokeh makes every canvas a tab stop; only the map takes keys, by its own element.
  for (const name of ["map", "incidence", "outcomes", "ribbon"]) {
    const untab = (root) => root.querySelectorAll("*").forEach((element) => {
      if (element.tabIndex === 0) element.tabIndex = -1;
      if (element.shadowRoot) untab(element.shadowRoot);
    });
    untab(byId(name));
  }

  options(byId("measure"), Object.values(page.measures).map(({ label }) => label), 0);
  options(byId("result"), page.maps.map(({ name }) => name), 0);
  byId("maps").hidden = page.maps.length < 2;
  byId("measure").addEventListener("change", (event) => {
    selected.measure = Object.keys(page.measures)[event.target.selectedIndex];
    drawMap();
  });
  byId("result").addEventListener("change", (event) => {
    selected.map = event.target.selectedIndex;
    drawResult();
  });
  byId("x").addEventListener("change", (event) => move(event.target.selectedIndex, selected.y));
  byId("y").addEventListener("change", (event) => move(selected.x, event.target.selectedIndex));

  // Begin where there is something to see: at the cell with the most lasting recoveries.
  const most = page.maps[0].measures[selected.measure].successes;
  const start = most.indexOf(Math.max(...most));
  selected.x = Math.floor(start / values(1).length);
  selected.y = start % values(1).length;
  drawResult();
  document.documentElement.dataset.ready = "true";
})();
