// Builds the page from the JSON in #data. Text from a record enters through textContent alone, never as markup.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  for (const child of children) node.append(child);
  return node;
}

// ---------------------------------------------------------------- tables
function table(columns, rows, {filter = "", open = null, pick = null} = {}) {
  // columns: [{title, numeric}], rows: [{cells: [{text, value, bold}]}]; returns a block with a filter and a table.
  const body = element("tbody"), head = element("tr"), heads = [];
  let sorted = {index: -1, up: true};
  const count = element("span", {class: "count", role: "status"});
  const lines = rows.map((row, place) => {
    const line = element("tr");
    if (pick) {
      const box = element("input", {type: "checkbox", "aria-label": "compare the config of " + row.cells[0].text});
      box.addEventListener("change", () => pick(row, box.checked));
      line.append(element("td", {}, box));
    }
    row.cells.forEach((cell, index) => {
      const shown = cell.bold ? element("strong", {}, cell.text) : cell.text;
      const td = element("td", columns[index].numeric ? {class: "number"} : {});
      if (index === 0 && open) {
        const button = element("button", {class: "link"}, shown);
        button.addEventListener("click", () => open(row));
        td.append(button);
      } else td.append(shown);
      line.append(td);
    });
    return {row, line, place, text: row.cells.map(cell => cell.text).join(" ").toLowerCase()};
  });
  function order(a, b) {
    if (sorted.index < 0) return a.place - b.place;
    const [x, y] = [a, b].map(item => item.row.cells[sorted.index].value);
    if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
    const way = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true});
    return (sorted.up ? way : -way) || a.place - b.place;
  }
  function sort(index) {
    sorted = {index, up: sorted.index === index ? !sorted.up : true};
    heads.forEach((th, place) => th.setAttribute("aria-sort", place !== index ? "none" : sorted.up ? "ascending" : "descending"));
    body.append(...lines.sort(order).map(item => item.line));
  }
  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const item of lines) {
      item.line.hidden = !words.every(word => item.text.includes(word));
      seen += !item.line.hidden;
    }
    count.textContent = seen + " of " + lines.length + " rows";
  }
  // Columns that do not matter most are there, and hidden until they are asked for.
  const hidden = columns.map(column => column.main === false);
  for (const item of lines) hidden.forEach((hide, index) => { if (hide) item.line.cells[index + (pick ? 1 : 0)].className += " more"; });
  if (pick) head.append(element("th", {}, element("span", {class: "hidden"}, "compare")));
  columns.forEach((column, index) => {
    const button = element("button", {}, column.title);
    const classes = (column.numeric ? "number" : "") + (hidden[index] ? " more" : "");
    const th = element("th", {"aria-sort": "none", scope: "col", class: classes}, button);
    button.addEventListener("click", () => sort(index));
    heads.push(th);
    head.append(th);
  });
  const search = element("input", {type: "search", placeholder: "filter rows", "aria-label": "filter rows", value: filter});
  search.addEventListener("input", show);
  body.append(...lines.map(item => item.line));
  show();
  const block = element("div", {class: pick ? "table picked" : "table"});
  const tools = element("p", {class: "tools"}, search, count);
  if (hidden.includes(true)) {
    const all = element("button", {class: "link all", "aria-expanded": "false"}, "all columns");
    all.addEventListener("click", () => {
      const open = block.classList.toggle("wide-open");
      all.textContent = open ? "fewer columns" : "all columns";
      all.setAttribute("aria-expanded", String(open));
    });
    tools.append(all);
  }
  block.append(tools, element("div", {class: "scroll"}, element("table", {}, element("thead", {}, head), body)));
  return block;
}

function plain(titles, rows) {
  // A small table of text that needs neither sorting nor a filter; without titles it has no head.
  const table = element("table", {}, element("tbody", {}, ...rows.map(
    row => element("tr", {}, ...row.map(text => element("td", {}, text))))));
  if (titles.length) table.prepend(element("thead", {}, element("tr", {}, ...titles.map(title => element("th", {scope: "col"}, title)))));
  return element("div", {class: "scroll"}, table);
}

// ---------------------------------------------------------------- configs
const MOST_COMPARED = 12;

function differing(settings) {
  // Of the settings that all of them have: what one method alone has differs by nature.
  const keys = Object.keys(settings[0]).filter(key => settings.every(setting => key in setting)).sort();
  return keys.filter(key => key !== "method" && new Set(settings.map(setting => JSON.stringify(setting[key]))).size > 1);
}

const written = value => value === undefined ? "–" : value === null ? "null" : String(value);

function differences(target, rows) {
  const settings = rows.map(row => data.settings[row.setting]);
  const keys = settings.length ? differing(settings) : [];
  target.replaceChildren(rows.length < 2 || !keys.length ? element("p", {}, "No difference.")
    : plain(["key", ...rows.map(row => row.name)], keys.map(key => [key, ...settings.map(setting => written(setting[key]))])));
}

// ---------------------------------------------------------------- a run
function showRuns(title, runs) {
  const dialog = document.getElementById("run");
  const parts = runs.map(run => {
    const setting = {...data.settings[run.setting], seed: run.seed};
    const block = element("section", {}, element("h3", {}, "Seed " + run.seed + ": " + run.status.replaceAll("_", " ")),
      element("h4", {}, "Command"), element("pre", {}, run.command));
    if (run.error) block.append(element("h4", {}, "Error"), element("pre", {class: "error"}, run.error));
    const config = Object.keys(setting).sort().map(key => key + ": " + written(setting[key])).join("\n");
    const unfold = runs.length > 1 ? {} : {open: ""};
    block.append(element("details", unfold, element("summary", {}, "Config"), element("pre", {}, config)),
      element("details", unfold, element("summary", {}, "Measured"), plain([], run.facts)));
    return block;
  });
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("div").replaceChildren(...parts);
  dialog.showModal();
}

// ---------------------------------------------------------------- the page
function showComparison(comparison) {
  const block = element("section", {id: "comparison-" + comparison.name});
  if (data.comparisons.length > 1) block.append(element("h2", {}, "Comparison " + comparison.name));
  const runs = row => row.runs.map(index => data.runs[index]);
  const picked = new Set(), target = element("div", {class: "differences"});
  const compare = () => differences(target, picked.size ? comparison.rows.filter(row => picked.has(row)) : comparison.rows.slice(0, MOST_COMPARED));
  const pick = (row, on) => { on ? picked.add(row) : picked.delete(row); compare(); };
  const answer = element("div", {class: "answer"}, ...comparison.answer.map(sentence => element("p", {}, sentence)));
  const first = element("div", {class: "first"}), charts = element("div", {class: "charts"});
  block.append(answer, first, table(comparison.columns, comparison.rows, {open: row => showRuns(row.name, runs(row)), pick}),
    element("p", {class: "caption"}, comparison.caption));
  for (const chart of comparison.charts) {
    const place = element("div", {class: "chart"});
    const figure = element("figure", chart.wide ? {class: "wide"} : {}, place, element("figcaption", {}, chart.title));
    (chart.wide ? first : charts).append(figure);
    const drawn = vegaEmbed(place, chart.spec, {actions: {export: true, source: false, compiled: false, editor: false}, renderer: "svg"});
    window.pending.push(drawn.catch(error => { place.textContent = "This chart cannot be drawn: " + error.message; }));
  }
  block.append(charts);
  if (comparison.without_charts) block.append(element("p", {}, comparison.without_charts));
  compare();
  block.append(element("h3", {}, "Differences between configs"),
    element("p", {}, "Of the settings that all rows ticked above have; without a tick, of the first " + MOST_COMPARED + " rows."), target,
    element("h3", {}, "Where the runs come from"), plain([], comparison.provenance));
  return block;
}

window.pending = [];
const main = document.querySelector("main");
for (const comparison of data.comparisons) main.append(showComparison(comparison));
main.append(element("h2", {}, "Runs"), table(data.run_columns, data.runs, {open: run => showRuns(run.cells[0].text, [run])}));
Promise.all(window.pending).then(() => document.body.setAttribute("data-charts", "drawn"));
