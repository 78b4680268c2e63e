// ---- Many runs -------------------------------------------------------------------------------------------
const metricOf = (cell) => `${cell.metric.replaceAll("_", " ")}, ${cell.higher_is_better ? "higher" : "lower"} is better`;
const FILTERS = ["task", "length", "method", "run", "device"];
const SAMPLES = [10, 30, 100];
const COLUMNS = [
  { name: "Model", key: (c) => c.model, show: linked, text: true, frozen: true },
  { name: "Task", key: (c) => c.task, text: true, frozen: true },
  { name: "Length", key: (c) => c.length, show: (c) => length(c.length), frozen: true },
  // Numbers of one metric only are compared: the table is sorted within each metric, best or worst first.
  { name: "Score", title: "best first, each metric for itself", key: (c) => (missing(c.score) ? null : c.score * (c.higher_is_better ? 1 : -1)), within: metricOf, downFirst: true, show: score },
  { name: "n", title: "samples that count", key: (c) => c.n },
  { name: "Metric", key: (c) => c.metric.replaceAll("_", " "), text: true },
  { name: "TTFT s", title: "time to first token, seconds", key: (c) => c.ttft_s },
  { name: "TPOT ms", title: "time per output token, milliseconds", key: (c) => c.tpot_ms },
  { name: "Peak GiB", title: "peak memory", key: (c) => c.peak_gib },
  { name: "Device", key: (c) => c.device, text: true },
  { name: "Run", key: (c) => c.run, text: true },
];
let sorting = { column: -1, down: false };

// The page of the run, filtered to the cell. Names of runs are letters, digits, dots and dashes.
function linked(cell) {
  const view = new URLSearchParams({ "cell-model": cell.model, "cell-task": cell.task });
  return make("a", { href: `runs/${encodeURIComponent(cell.run)}/report.html#${view}` }, cell.model);
}
function score(cell) {
  if (missing(cell.score)) return make("span", { class: `status-${cell.status}` }, cell.status === "oom" ? "out of memory" : cell.status === "ok" ? "" : cell.status);
  const beyond = cell.max_context && cell.length > cell.max_context ? "\u00b0" : "";
  return make("span", {}, make("span", { class: "score" }, number(cell.score, 3) + beyond), cell.measured ? null : range(cell.low, cell.high, 2),
    cell.best ? make("span", { class: "mark" }, " best") : null);
}
function shown() {
  const words = $("words").value.toLowerCase(), least = chosen("samples") ?? 0;
  return data.cells.filter((cell) => FILTERS.every((name) => fits(name, cell[name] ?? null)) && (cell.n ?? 0) >= least &&
    (!words || [cell.model, cell.method, cell.task, length(cell.length), cell.metric, cell.run, cell.device].join(" ").toLowerCase().includes(words)));
}

function draw() {
  const cells = shown();
  drawBoard(cells.filter((cell) => !cell.measured));
  drawTable(cells);
  $("count").textContent = `${cells.length} of ${data.cells.length} cells`;
}
function drawBoard(cells) {
  $("matrices").replaceChildren(...unique(cells.map((cell) => `${cell.task}\n${metricOf(cell)}`)).map((title) =>
    drawMatrix(title, cells.filter((cell) => `${cell.task}\n${metricOf(cell)}` === title))));
  document.querySelectorAll("table.matrix").forEach(freeze);
}
function drawMatrix(title, cells) {
  const lengths = unique(cells.map((cell) => cell.length ?? null)).sort((a, b) => inOrder(a, b));
  const rows = unique(cells.map((cell) => JSON.stringify([cell.model, cell.run]))).map((key) => JSON.parse(key));
  const head = make("tr", {}, make("th", { scope: "col", class: "text frozen" }, "method"), ...lengths.map((tokens) => make("th", { scope: "col" }, length(tokens) || "own length")));
  const body = make("tbody");
  for (const [model, run] of rows) {
    const mine = cells.filter((cell) => cell.model === model && cell.run === run);
    const row = make("tr", {}, make("th", { scope: "row", class: "text frozen" }, linked(mine[0]), make("span", { class: "difference" }, run)));
    for (const tokens of lengths) {
      const cell = mine.find((found) => (found.length ?? null) === tokens);
      row.append(make("td", { class: !cell ? "none" : cell.best ? "best" : "", title: cell ? `${cell.n} samples` : "" }, cell ? score(cell) : "\u2013"));
    }
    body.append(row);
  }
  const [task, metric] = title.split("\n");
  return make("div", { class: "block" }, make("h3", {}, `${task}: ${metric}`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": task }, make("table", { class: "matrix" }, make("thead", {}, head), body)));
}
function drawHead() {
  const row = make("tr");
  COLUMNS.forEach((column, index) => {
    const button = make("button", { type: "button", title: column.title || "" }, column.name);
    button.addEventListener("click", () => {
      sorting = { column: index, down: sorting.column === index ? !sorting.down : Boolean(column.downFirst) };
      draw();
      remember();
    });
    row.append(make("th", { scope: "col", class: (column.text ? "text " : "") + (column.frozen ? "frozen" : "") }, button));
  });
  $("cells").tHead.append(row);
}
function drawTable(cells) {
  const { rows, heading } = sorted(cells, COLUMNS, sorting), body = [];
  rows.forEach((cell, index) => {
    if (heading && (index === 0 || heading(cell) !== heading(rows[index - 1])))
      body.push(make("tr", { class: "group" }, make("th", { colspan: COLUMNS.length, scope: "colgroup", class: "text" }, heading(cell))));
    body.push(make("tr", {}, ...COLUMNS.map((column) =>
      make("td", { class: (column.text ? "text " : "") + (column.frozen ? "frozen" : "") }, column.show ? column.show(cell) : column.text ? column.key(cell) : number(column.key(cell), 3)))));
  });
  markSorted($("cells"), sorting);
  $("cells").tBodies[0].replaceChildren(...body);
  freeze($("cells"));
}

for (const name of FILTERS) {
  const values = unique(data.cells.map((cell) => cell[name] ?? null));
  options($(name), name === "length" ? values.sort((a, b) => inOrder(a, b)) : values, name === "length" ? (value) => length(value) || "own length" : undefined);
  keepField(name, draw);
}
options($("samples"), SAMPLES, (least) => `${least} or more`);
keepField("samples", draw);
keepField("words", draw);
keepSorting(COLUMNS, () => sorting, (found) => { sorting = found; });
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { recall(); draw(); });
window.addEventListener("resize", () => document.querySelectorAll("#cells, table.matrix").forEach(freeze));
drawHead();
recall();
draw();
document.body.dataset.drawn = "yes"; // for tests
