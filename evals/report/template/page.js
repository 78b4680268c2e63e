"use strict";
// All text from models and data is set as textContent: nothing here builds markup from strings.
const data = JSON.parse(document.getElementById("data").textContent);
// Control characters, bidirectional overrides and half surrogate pairs are shown as escapes.
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\u{d800}-\u{dfff}\u{e0000}-\u{e007f}]/gu;
const visible = (text) => String(text).replace(UNSAFE, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, name === "value" ? value : visible(value));
  node.append(...children.filter((child) => child !== null && child !== undefined).map(String2Node));
  return node;
}
const String2Node = (child) => (child instanceof Node ? child : document.createTextNode(visible(child)));

function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}
const length = (tokens) =>
  tokens === null || tokens === undefined ? "" : tokens % 1024 === 0 ? `${tokens / 1024}K` : String(tokens);
const unique = (values) => [...new Set(values)];

function options(select, values, label = (value) => value) {
  select.append(make("option", { value: "" }, "all"));
  for (const value of values) select.append(make("option", { value: JSON.stringify(value) }, label(value)));
}
const chosen = (id) => ($(id).value === "" ? undefined : JSON.parse($(id).value));
const fits = (id, value) => chosen(id) === undefined || chosen(id) === value;

// ---- Summary ---------------------------------------------------------------------------------------------
const COLUMNS = [
  { name: "Model", key: (c) => c.model, text: true },
  { name: "Task", key: (c) => c.task, text: true },
  { name: "Length", key: (c) => c.length, show: (c) => length(c.length) },
  { name: "Status", key: (c) => c.status, text: true, show: status },
  { name: "n", key: (c) => c.n },
  { name: "Metric", key: (c) => c.metric, text: true },
  { name: "Score", key: (c) => c.metrics[c.metric], show: score },
  { name: "TTFT (s)", title: "time to first token", key: (c) => c.ttft_s },
  { name: "TPOT (ms)", title: "time per output token", key: (c) => c.tpot_ms },
  { name: "p95 (ms)", title: "time per output token, 95th percentile", key: (c) => c.tpot_p95_ms },
  { name: "Peak (GiB)", title: "peak memory", key: (c) => c.peak_gib },
  { name: "State (GiB)", title: "memory held for a context after it is read", key: (c) => c.state_gib },
  { name: "Read (s)", title: "time to read the context", key: (c) => c.read_s },
  { name: "Query (s)", title: "time to read the query", key: (c) => c.query_s },
  { name: "Other metrics", key: others, text: true, more: true },
];
let sorting = { column: -1, down: false };

function status(cell) {
  const beyond = cell.max_context && cell.length > cell.max_context ? " (beyond window)" : "";
  const untested = cell.tests_context === false ? " (context not tested)" : "";
  return make("span", { class: `status-${cell.status}`, title: cell.error || "" }, cell.status + beyond + untested);
}
function score(cell) {
  const value = cell.metrics[cell.metric], range = cell.intervals[cell.metric];
  if (value === undefined) return "";
  return make("span", {}, number(value), make("span", { class: "range" }, range ? ` [${number(range[0], 3)}, ${number(range[1], 3)}]` : cell.measured ? "" : " [too few]"));
}
function others(cell) {
  return Object.keys(cell.metrics).filter((name) => name !== cell.metric).map((name) => `${name} ${number(cell.metrics[name])}`).join(", ");
}
function compare(a, b) {
  const empty = (value) => value === null || value === undefined || value === "";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function drawHead() {
  const row = make("tr");
  COLUMNS.forEach((column, index) => {
    const button = make("button", { type: "button", title: column.title || "" }, column.name);
    button.addEventListener("click", () => {
      sorting = { column: index, down: sorting.column === index && !sorting.down };
      drawCells();
    });
    row.append(make("th", { scope: "col", class: column.text ? "text" : "" }, button));
  });
  $("cells").tHead.append(row);
}
function drawCells() {
  const words = $("cell-text").value.toLowerCase();
  const rows = data.cells.filter((cell) =>
    fits("cell-model", cell.model) && fits("cell-task", cell.task) && fits("cell-status", cell.status) &&
    (!words || [cell.model, cell.task, length(cell.length), cell.length, cell.status, cell.metric].join(" ").toLowerCase().includes(words)));
  const column = COLUMNS[sorting.column];
  if (column) rows.sort((a, b) => {
    const x = column.key(a), y = column.key(b), empty = (v) => v === null || v === undefined || v === "";
    return empty(x) || empty(y) ? compare(x, y) : compare(x, y) * (sorting.down ? -1 : 1);
  });
  [...$("cells").tHead.rows[0].cells].forEach((cell, index) => {
    if (index === sorting.column) cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  $("cells").tBodies[0].replaceChildren(...rows.map(drawCell));
  $("cell-count").textContent = `${rows.length} of ${data.cells.length} cells`;
}
function drawCell(cell) {
  const row = make("tr");
  COLUMNS.forEach((column, index) => {
    let content = column.show ? column.show(cell) : number(column.key(cell));
    if (index === 0) {
      content = make("button", { type: "button", class: "link", title: "Show the samples" }, content);
      content.addEventListener("click", () => openCell(cell));
    }
    row.append(make("td", { class: column.more ? "text more" : column.text ? "text" : "", title: column.more ? column.key(cell) : "" }, content));
  });
  return row;
}
function openCell(cell) {
  $("sample-model").value = JSON.stringify(cell.model);
  $("sample-task").value = JSON.stringify(cell.task);
  $("sample-length").value = JSON.stringify(cell.length);
  $("sample-text").value = "";
  drawSamples();
  $("samples").scrollIntoView();
  $("sample-model").focus({ preventScroll: true });
}

// ---- Samples ---------------------------------------------------------------------------------------------
const PAGE = 50;
const byId = new Map(data.cells.map((cell) => [cell.cell, cell]));
let found = [], page = 0, current = null;

const firstScore = (sample) => sample.metrics[byId.get(sample.cell).metric] ?? Object.values(sample.metrics)[0];
function verdict(sample) {
  const value = firstScore(sample);
  return value === undefined ? sample.status : number(value, 3);
}
function drawSamples() {
  const words = $("sample-text").value.toLowerCase();
  found = data.samples.filter((sample) => {
    const cell = byId.get(sample.cell);
    if (!fits("sample-model", cell.model) || !fits("sample-task", cell.task) || !fits("sample-length", cell.length)) return false;
    return !words || [sample.sample, sample.output.text, sample.prompt.head, sample.prompt.tail, JSON.stringify(sample.reference)].join("\n").toLowerCase().includes(words);
  });
  const order = $("sample-order").value;
  if (order !== "run") found.sort((a, b) => goodness(b, order) - goodness(a, order));
  page = 0;
  drawPage();
}
// Sort key of a sample: reversed for scores where lower is better.
function goodness(sample, order) {
  const value = firstScore(sample) ?? -Infinity;
  return value * (byId.get(sample.cell).higher_is_better ? 1 : -1) * (order === "best" ? 1 : -1);
}
function drawPage() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  $("sample-list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(drawEntry));
  $("sample-count").textContent = `${found.length} of ${data.samples.length} samples`;
  $("page-at").textContent = `${page + 1} / ${pages}`;
  $("page-back").disabled = page === 0;
  $("page-on").disabled = page === pages - 1;
}
function drawEntry(sample) {
  const cell = byId.get(sample.cell);
  const button = make("button", { type: "button", "aria-current": String(sample === current) },
    make("span", { class: "first" }, sample.sample),
    make("span", { class: "second" }, make("span", {}, [cell.model, cell.task, length(cell.length)].filter(Boolean).join(" · ")), make("span", { class: mood(sample) }, verdict(sample))));
  button.addEventListener("click", () => openSample(sample, button));
  return make("li", {}, button);
}
function mood(sample) {
  const cell = byId.get(sample.cell), value = firstScore(sample);
  if (!cell.higher_is_better || value === undefined) return "";
  return value >= 1 ? "right" : value <= 0 ? "wrong" : "";
}
function openSample(sample, button) {
  current = sample;
  for (const other of $("sample-list").querySelectorAll("button")) other.setAttribute("aria-current", String(other === button));
  $("sample").replaceChildren(...detail(sample));
  if (window.matchMedia("(max-width: 48rem)").matches) $("sample").scrollIntoView();
}
function detail(sample) {
  const cell = byId.get(sample.cell), audit = sample.audit || {};
  const parts = [make("h3", {}, [sample.sample, cell.model, cell.task, length(cell.length)].filter(Boolean).join(" · "))];
  parts.push(make("dl", { class: "metrics" }, ...Object.entries(sample.metrics).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, number(value))))));
  if (sample.error) parts.push(make("p", { class: "wrong" }, sample.error));
  parts.push(make("div", { class: "pair" },
    make("div", {}, make("h4", {}, `Prediction (${sample.output.tokens ?? 0} tokens)`), make("pre", {}, sample.output.text || "(none: this task scores given tokens)")),
    make("div", {}, make("h4", {}, "Reference"), make("pre", {}, plain(sample.reference)))));
  parts.push(make("h4", {}, `Prompt (${number(audit.tokens)} tokens)`), make("pre", {}, sample.prompt.head));
  parts.push(audit.cut_tokens
    ? make("p", { class: "cut" }, `${audit.cut_tokens} tokens of the context were removed at token ${audit.cut_at}`)
    : make("p", { class: "gap" }, "… the middle is omitted here; the model read all of it …"));
  parts.push(make("pre", {}, sample.prompt.tail));
  parts.push(...traceParts(sample, audit), ...sameQuestion(sample));
  parts.push(make("h4", {}, "Record"), make("details", {}, make("summary", {}, "Audit, group, seconds"),
    make("pre", {}, JSON.stringify({ context: sample.control, group: sample.group, meta: sample.meta, audit, seconds: sample.seconds }, null, 1))));
  return parts;
}
const plain = (value) => (value === null || value === undefined ? "(none)" : typeof value === "string" ? value : JSON.stringify(value, null, 1));

function traceParts(sample, audit) {
  const trace = sample.trace || {};
  if (!Object.keys(trace).length) return [];
  const kept = Array.isArray(trace.kept_full) ? trace.kept_full : [];
  const parts = [make("h4", {}, kept.length ? `What the tree kept in full: ${kept.length} pieces` : "Trace")];
  if (kept.length) parts.push(strip(kept, sample, audit), make("p", { class: "hint" }, "The context from left to right. Filled: kept in full. Red line: the evidence, or where the prompt was cut."));
  const list = kept.slice(0, 200).map((piece) => `chunk ${piece.chunk}: tokens ${piece.start} to ${piece.end}`).join("\n");
  const rest = Object.fromEntries(Object.entries(trace).filter(([name]) => name !== "kept_full"));
  parts.push(make("details", {}, make("summary", {}, "As a list"), make("pre", {}, list + (kept.length > 200 ? `\nand ${kept.length - 200} more` : "") + "\n" + JSON.stringify(rest))));
  return parts;
}
function strip(kept, sample, audit) {
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const end = Math.max(audit.tokens || 0, ...kept.map((piece) => piece.end));
  const picture = svg("svg", { class: "strip", viewBox: `0 0 ${end} 10`, preserveAspectRatio: "none", role: "img", "aria-label": `${kept.length} pieces of the context kept in full` });
  for (const piece of kept) picture.append(svg("rect", { class: "kept", x: piece.start, y: 1, width: piece.end - piece.start, height: 8 }));
  const line = (x, name) => picture.append(svg("line", { class: name, x1: x, x2: x, y1: 0, y2: 10 }));
  if (audit.cut_at) line(audit.cut_at, "cutmark");
  if (sample.control === "own" && sample.meta && typeof sample.meta.token === "number") line(sample.meta.token, "needle");
  return picture;
}
// The same question to the other models: one click shows where methods differ.
function sameQuestion(sample) {
  const cell = byId.get(sample.cell);
  const others = data.samples.filter((other) => {
    const theirs = byId.get(other.cell);
    return other !== sample && other.sample === sample.sample && theirs.task === cell.task && theirs.length === cell.length;
  });
  if (!others.length) return [];
  return [make("h4", {}, "The same question, other models"), make("ul", {}, ...others.map((other) => {
    const button = make("button", { type: "button", class: "link" }, `${byId.get(other.cell).model}: ${verdict(other)}`);
    button.addEventListener("click", () => openSample(other, null));
    return make("li", {}, button);
  }))];
}

// ---- Start -----------------------------------------------------------------------------------------------
for (const [prefix, fields] of [["cell", ["model", "task", "status"]], ["sample", ["model", "task", "length"]]]) {
  for (const field of fields) {
    const values = unique(data.cells.map((cell) => cell[field]));
    options($(`${prefix}-${field}`), values, field === "length" ? (value) => length(value) || "own length" : undefined);
    $(`${prefix}-${field}`).addEventListener("change", prefix === "cell" ? drawCells : drawSamples);
  }
}
$("cell-text").addEventListener("input", drawCells);
$("sample-text").addEventListener("input", drawSamples);
$("sample-order").addEventListener("change", drawSamples);
$("page-back").addEventListener("click", () => { page -= 1; drawPage(); });
$("page-on").addEventListener("click", () => { page += 1; drawPage(); });
$("sample-list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.closest("li")) return;
  const neighbour = event.target.closest("li")[step > 0 ? "nextElementSibling" : "previousElementSibling"];
  if (neighbour) { event.preventDefault(); neighbour.firstChild.focus(); neighbour.firstChild.click(); }
});
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
drawHead();
drawCells();
drawSamples();
