// ---- Method by length ------------------------------------------------------------------------------------
const LEVEL = 0.05;

function drawMatrices() {
  const base = chosen("base"), task = chosen("matrix-task");
  $("matrices").replaceChildren(...data.matrices.map((matrix, index) => {
    const block = drawMatrix(matrix, base, scoreCell);
    if (task !== undefined && task !== index) block.classList.add("unchosen");
    return block;
  }));
  $("costs").replaceChildren(...data.costs.map((matrix) => drawMatrix(matrix, base, costCell)));
  document.querySelectorAll("table.matrix").forEach(freeze);
}
function drawMatrix(matrix, base, draw) {
  const metrics = unique(matrix.columns.map((column) => column.metric).filter(Boolean));
  const lower = matrix.columns.some((column) => column.higher_is_better === false);
  const head = make("tr", {}, make("th", { scope: "col", class: "text frozen" }, "method"));
  for (const column of matrix.columns)
    head.append(make("th", { scope: "col" }, column.name, metrics.length > 1 ? make("span", { class: "unit" }, column.metric) : null));
  const body = make("tbody");
  for (const [model, cells] of Object.entries(matrix.rows)) {
    const button = make("button", { type: "button", class: "link", "aria-pressed": String(model === base), title: "Show differences to this method" }, model);
    button.addEventListener("click", () => { $("base").value = model === base ? "" : JSON.stringify(model); drawMatrices(); remember(); });
    const row = make("tr", { class: model === base ? "base" : "" }, make("th", { scope: "row", class: "text frozen" }, button));
    cells.forEach((cell, index) => row.append(draw(matrix, model, index, cell, base)));
    body.append(row);
  }
  if (matrix.chance) body.append(make("tr", { class: "chance" }, make("th", { scope: "row", class: "text frozen" }, "chance"), ...matrix.chance.map((value) => make("td", {}, number(value, 3)))));
  const title = matrix.title + (metrics.length === 1 && metrics[0] !== matrix.title ? `: ${metrics[0]}` : "") + (lower ? " (lower is better)" : "");
  const table = make("table", { class: "matrix" }, make("thead", {}, head), body);
  return make("div", { class: "block" }, make("h3", {}, title), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table));
}
function scoreCell(matrix, model, index, cell, base) {
  if (!cell) return make("td", { class: "none" }, "\u2013");
  if (missing(cell.score)) return make("td", { class: `status-${cell.status}` }, cell.status === "oom" ? "out of memory" : cell.status);
  const value = make("span", { class: "score" }, number(cell.score, 3) + (cell.beyond ? "\u00b0" : ""));
  const mark = cell.best ? make("span", { class: "mark" }, " best") : null;
  const hint = `${cell.n} samples` + (cell.best ? ", better than every other method" : "");
  return make("td", { class: cell.best ? "best" : "", title: hint }, value, range(cell.low, cell.high, 2), mark, difference(matrix, model, index, base));
}
function difference(matrix, model, index, base) {
  if (base === undefined || !(base in matrix.rows)) return null;
  if (model === base) return make("span", { class: "difference" }, "base");
  const found = (matrix.against[base]?.[model] ?? [])[index];
  if (!found) return make("span", { class: "difference" }, matrix.against[base] ? "not paired" : "use compare");
  const [value, low, high, p] = found, shown = p <= LEVEL;
  if (value === 0 && missing(low)) return make("span", { class: "difference" }, "the same answers");
  const better = value > 0 === matrix.columns[index].higher_is_better;
  const kind = shown ? (better ? "right" : "wrong") : "";
  return make("span", { class: `difference ${kind}`, title: `p = ${number(p, 2)} after Holm` },
    signed(value), range(low, high, 2), shown ? (better ? " better" : " worse") : " n.s.");
}
function costCell(matrix, model, index, cell, base) {
  if (missing(cell)) return make("td", { class: "none" }, "\u2013");
  if (cell === "oom") return make("td", { class: "status-oom" }, "out of memory");
  const other = base === undefined ? undefined : matrix.rows[base]?.[index];
  const ratio = typeof other === "number" && other > 0 ? make("span", { class: "difference" }, model === base ? "base" : `${number(cell / other, 2)} times`) : null;
  return make("td", {}, make("span", { class: "score" }, number(cell, 3)), ratio);
}
