"use strict";
// Shows what the page holds; computes nothing but places on the screen.
// Everything that comes from a model is set as text, never as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("data").textContent);
  const selected = { site: 0, unit: null, sort: null, down: true };

  const made = (tag, text, settings = {}) => {
    const element = document.createElement(tag);
    if (text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(settings)) element.setAttribute(name, value);
    return element;
  };
  const drawn = (tag, settings, text = null) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(settings)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  const show = (value) => {
    if (value === null || value === "") return "none";
    if (typeof value === "boolean") return value ? "yes" : "no";
    return String(value);
  };
  const isText = (column) => typeof page.sites[0][column] === "string";
  const say = (pairs) => pairs.flatMap(([key, value]) => [made("dt", key), made("dd", value)]);

  function drawSites() {
    const table = byId("sites");
    const head = document.createElement("thead");
    const top = head.insertRow();
    for (const column of page.columns) {
      const cell = made("th", null, { scope: "col", class: isText(column) ? "text" : "" });
      const button = made("button", column.replaceAll("_", " "), { type: "button" });
      button.addEventListener("click", () => {
        selected.down = selected.sort === column ? !selected.down : !isText(column);
        selected.sort = column;
        drawSites();
      });
      if (selected.sort === column) {
        cell.setAttribute("aria-sort", selected.down ? "descending" : "ascending");
      }
      cell.append(button);
      top.append(cell);
    }
    const order = page.sites.map((_, i) => i);
    if (selected.sort !== null) {
      const value = (i) => page.sites[i][selected.sort] ?? -Infinity;
      order.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a - b));
      if (selected.down) order.reverse();
    }
    const body = document.createElement("tbody");
    for (const i of order) {
      const row = body.insertRow();
      row.tabIndex = 0;
      row.setAttribute("aria-selected", i === selected.site);
      for (const column of page.columns) {
        row.append(made("td", show(page.sites[i][column]), { class: isText(column) ? "text" : "" }));
      }
      const choose = () => chooseSite(i);
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
      });
    }
    table.replaceChildren(head, body);
  }

  function drawHistogram() {
    const { site, histogram: { edges, dead, others } } = page.sites[selected.site];
    byId("histogram_heading").textContent = `${site}: margins of its units`;
    const [width, height, left, bottom, above] = [640, 230, 44, 40, 14];
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    byId("histogram").replaceChildren(svg);
    byId("histogram_note").textContent = page.sites[selected.site].histogram.note;
    if (edges.length === 0) return;
    const [low, high] = [edges[0], edges[edges.length - 1]];
    const most = Math.max(...dead.map((n, i) => n + others[i]), 1);
    const x = (value) => left + (value - low) / (high - low) * (width - left - 12);
    const y = (count) => height - bottom - count / most * (height - bottom - above);
    dead.forEach((n, i) => {
      for (const [from, count, colour] of [[0, n, "#B3400A"], [n, others[i], "#56A0D3"]]) {
        if (count === 0) continue;
        svg.append(drawn("rect", {
          x: x(edges[i]) + 0.5, width: Math.max(x(edges[i + 1]) - x(edges[i]) - 1, 0.5),
          y: y(from + count), height: y(from) - y(from + count), fill: colour,
        }));
      }
    });
    const line = (x1, y1, x2, y2, more = {}) =>
      svg.append(drawn("line", { x1, y1, x2, y2, stroke: "#222", ...more }));
    line(left, y(0), width - 12, y(0));
    if (low < 0 && high > 0) line(x(0), above - 8, x(0), y(0), { "stroke-dasharray": "4 3" });
    const label = (value, at, anchor) => svg.append(drawn(
      "text", { x: x(at), y: height - bottom + 16, "text-anchor": anchor }, value));
    label(String(low), low, "start");
    label(String(high), high, "end");
    if (x(0) - left > 50 && width - 12 - x(0) > 50) label("0", 0, "middle");
    svg.append(drawn("text", { x: width / 2, y: height - 6, "text-anchor": "middle" },
      "largest z minus threshold"));
    svg.append(drawn("text", { x: left - 6, y: y(most) + 4, "text-anchor": "end" }, String(most)));
    svg.append(drawn("text", { x: left - 6, y: y(0), "text-anchor": "end" }, "0"));
    svg.setAttribute("aria-label", `Histogram of margins, ${low} to ${high}; ` +
      `${dead.reduce((a, b) => a + b, 0)} units dead.`);
  }

  function drawGrid() {
    const { first, units } = page.sites[selected.site];
    const buttons = Array.from({ length: units }, (_, k) => {
      const unit = first + k;
      const button = made("button", null, {
        type: "button", class: page.states[unit], "aria-pressed": unit === selected.unit,
        "aria-label": `unit ${k}: ${page.states[unit]}`, title: `unit ${k}: ${page.states[unit]}`,
      });
      button.addEventListener("click", () => chooseUnit(unit));
      return button;
    });
    byId("grid").replaceChildren(...buttons);
  }

  function drawUnit() {
    const { site, first } = page.sites[selected.site];
    byId("unit_heading").textContent = `Unit ${selected.unit - first} of ${site}`;
    byId("unit").replaceChildren(...say(Object.entries(page.units).map(
      ([name, values]) => [name.replaceAll("_", " "), show(values[selected.unit])])));
  }

  function chooseUnit(unit) {
    const { first } = page.sites[selected.site];
    const buttons = byId("grid").children;
    if (selected.unit !== null) buttons[selected.unit - first]?.setAttribute("aria-pressed", false);
    selected.unit = unit;
    buttons[unit - first].setAttribute("aria-pressed", true);
    drawUnit();
  }

  function chooseSite(site) {
    selected.site = site;
    const { first, units } = page.sites[site];
    const states = page.states.slice(first, first + units);
    const worst = ["invalid", "dead", "flat", "dormant"].map((s) => states.indexOf(s));
    selected.unit = first + (worst.find((k) => k >= 0) ?? 0);
    drawSites();
    drawHistogram();
    drawGrid();
    drawUnit();
  }

  byId("headline").replaceChildren(...page.headline.map((line) => made("li", line)));
  byId("bound").textContent = page.bound;
  byId("key").replaceChildren(...Object.entries(page.key).map(([state, text]) => {
    const item = made("li", null);
    item.append(made("i", null, { class: state }), text);
    return item;
  }));
  byId("fixes").replaceChildren(...page.fixes.map(({ text, call, unmeasured }) => {
    const item = made("li", text);
    item.append(made("br", null), made("code", call));
    item.append(made("p", `Not measured: ${unmeasured}.`, { class: "small" }));
    return item;
  }));
  byId("words").replaceChildren(...say(page.words));
  byId("not_read").replaceChildren(...page.not_read.map((note) => made("li", note)));
  byId("notes").hidden = page.not_read.length === 0;
  chooseSite(0);
  document.documentElement.dataset.ready = "true";
})();
