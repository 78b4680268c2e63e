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
  if (order !== "run") {
    const metrics = unique(found.map(metricOfSample));
    found.sort((a, b) => metrics.indexOf(metricOfSample(a)) - metrics.indexOf(metricOfSample(b)) || goodness(b, order) - goodness(a, order));
  }
  page = 0;
  drawPage();
}
// Samples are sorted within each metric: an accuracy and a loss have no common order.
const metricOfSample = (sample) => (byId.get(sample.cell).metric in sample.metrics ? byId.get(sample.cell).metric : Object.keys(sample.metrics)[0]);
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
  remember();
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
  if (kept.length) parts.push(strip(kept, sample, audit), make("p", { class: "hint" }, "This is the context from left to right. What is filled was kept in full. A red line marks the evidence, or where the prompt was cut."));
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
