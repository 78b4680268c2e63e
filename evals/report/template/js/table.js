// ---- All cells -------------------------------------------------------------------------------------------
const metricOf = (cell) => `${cell.metric.replaceAll("_", " ")}, ${cell.higher_is_better ? "higher" : "lower"} is better`;
const COLUMNS = [  // those that are empty in every row are left out
  { name: "Model", key: (c) => c.model, text: true, frozen: true },
  { name: "Task", key: (c) => c.task, text: true, frozen: true },
  { name: "Length", key: (c) => c.length, show: (c) => length(c.length), frozen: true },
  // Numbers of one metric only are compared: the table is sorted within each metric, best or worst first.
  { name: "Score", title: "best first, each metric for itself", key: (c) => (c.metrics[c.metric] ?? null) === null ? null : c.metrics[c.metric] * (c.higher_is_better ? 1 : -1), within: metricOf, downFirst: true, show: score },
  { name: "n", title: "samples that count", key: (c) => c.n },
  { name: "Status", key: (c) => c.status, text: true, show: status },
  { name: "Metric", key: (c) => c.metric.replaceAll("_", " "), text: true },
  { name: "TTFT s", title: "time to first token, seconds", key: (c) => c.ttft_s },
  { name: "TPOT ms", title: "time per output token, milliseconds", key: (c) => c.tpot_ms },
  { name: "p95 ms", title: "time per output token, 95th percentile, milliseconds", key: (c) => c.tpot_p95_ms },
  { name: "Peak GiB", title: "peak memory", key: (c) => c.peak_gib },
  { name: "State GiB", title: "memory held for a context after it is read", key: (c) => c.state_gib },
  { name: "Read s", title: "time to read the context, seconds", key: (c) => c.read_s },
  { name: "Query s", title: "time to read the query, seconds", key: (c) => c.query_s },
  { name: "More", title: "the other metrics", key: (c) => Object.keys(c.metrics).length - (c.metric in c.metrics), show: others },
].filter((column) => column.frozen || column.show || data.cells.some((cell) => !missing(column.key(cell))));
let sorting = { column: -1, down: false };
const opened = new Set();

function status(cell) {
  const beyond = cell.max_context && cell.length > cell.max_context ? " (beyond window)" : "";
  const untested = cell.tests_context === false ? " (context not tested)" : "";
  return make("span", { class: `status-${cell.status}`, title: cell.error || "" }, cell.status + beyond + untested);
}
function score(cell) {
  const value = cell.metrics[cell.metric], limits = cell.intervals[cell.metric];
  if (value === undefined) return cell.status === "oom" ? make("span", { class: "status-oom" }, "out of memory") : "";
  return make("span", {}, number(value), limits || !cell.measured ? range(limits?.[0], limits?.[1]) : null);
}
function others(cell) {
  const names = Object.keys(cell.metrics).filter((name) => name !== cell.metric);
  if (!names.length) return "";
  const button = make("button", { type: "button", class: "link", "aria-expanded": String(opened.has(cell.cell)) }, `${names.length} more`);
  button.addEventListener("click", () => { opened.has(cell.cell) ? opened.delete(cell.cell) : opened.add(cell.cell); drawCells(); });
  return button;
}
function moreRow(cell) {
  const items = Object.keys(cell.metrics).filter((name) => name !== cell.metric).map((name) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, number(cell.metrics[name]), cell.intervals[name] ? range(...cell.intervals[name]) : null)));
  return make("tr", { class: "more" }, make("td", { colspan: COLUMNS.length, class: "text" }, make("dl", { class: "metrics" }, ...items)));
}

function drawHead() {
  const row = make("tr");
  COLUMNS.forEach((column, index) => {
    const button = make("button", { type: "button", title: column.title || "" }, column.name);
    button.addEventListener("click", () => {
      const again = sorting.column === index;
      sorting = { column: index, down: again ? !sorting.down : Boolean(column.downFirst) };
      drawCells();
      remember();
    });
    row.append(make("th", { scope: "col", class: (column.text ? "text " : "") + (column.frozen ? "frozen" : "") }, button));
  });
  $("cells").tHead.append(row);
}
function drawCells() {
  const words = $("cell-text").value.toLowerCase();
  const chosenCells = data.cells.filter((cell) =>
    fits("cell-model", cell.model) && fits("cell-task", cell.task) && fits("cell-status", cell.status) &&
    (!words || [cell.model, cell.task, length(cell.length), cell.length, cell.status, cell.metric].join(" ").toLowerCase().includes(words)));
  const { rows, heading } = sorted(chosenCells, COLUMNS, sorting), body = [];
  markSorted($("cells"), sorting);
  rows.forEach((cell, index) => {
    if (heading && (index === 0 || heading(cell) !== heading(rows[index - 1])))
      body.push(make("tr", { class: "group" }, make("th", { colspan: COLUMNS.length, scope: "colgroup", class: "text" }, heading(cell))));
    body.push(drawCell(cell));
    if (opened.has(cell.cell)) body.push(moreRow(cell));
  });
  $("cells").tBodies[0].replaceChildren(...body);
  $("cell-count").textContent = `${rows.length} of ${data.cells.length} cells`;
  freeze($("cells"));
}
function drawCell(cell) {
  const row = make("tr");
  COLUMNS.forEach((column, index) => {
    let content = column.show ? column.show(cell) : column.text ? column.key(cell) : number(column.key(cell), 3);
    if (index === 0) {
      content = make("button", { type: "button", class: "link", title: "Show the samples" }, content);
      content.addEventListener("click", () => openCell(cell));
    }
    row.append(make("td", { class: (column.text ? "text " : "") + (column.frozen ? "frozen" : "") }, content));
  });
  return row;
}
function openCell(cell) {
  $("sample-model").value = JSON.stringify(cell.model);
  $("sample-task").value = JSON.stringify(cell.task);
  $("sample-length").value = JSON.stringify(cell.length);
  $("sample-text").value = "";
  drawSamples();
  remember();
  $("samples").scrollIntoView();
  $("sample-model").focus({ preventScroll: true });
}
