// ---- Start -----------------------------------------------------------------------------------------------
function drawAll() {
  drawMatrices();
  drawCells();
  drawSamples();
}
// The sample that an address names, on its page of the list.
function showCurrent() {
  page = Math.max(0, Math.floor(found.indexOf(current) / PAGE));
  drawPage();
  $("sample").replaceChildren(...detail(current));
  $("samples").scrollIntoView();
}
options($("base"), unique([...data.matrices, ...data.costs].flatMap((matrix) => Object.keys(matrix.rows))), undefined, "none");
options($("matrix-task"), data.matrices.keys(), (index) => data.matrices[index].title);
if (data.matrices.length > 6) $("matrix-task").value = "0";
$("matrix-task").closest("label").hidden = data.matrices.length < 2;
for (const id of ["base", "matrix-task"]) keepField(id, drawMatrices);
for (const [prefix, fields, redraw] of [["cell", ["model", "task", "status"], drawCells], ["sample", ["model", "task", "length"], drawSamples]]) {
  for (const field of fields) {
    const values = unique(data.cells.map((cell) => cell[field]));
    options($(`${prefix}-${field}`), values, field === "length" ? (value) => length(value) || "own length" : undefined);
    keepField(`${prefix}-${field}`, redraw);
  }
}
keepField("cell-text", drawCells);
keepField("sample-text", drawSamples);
keepField("sample-order", drawSamples);
keepSorting(COLUMNS, () => sorting, (found) => { sorting = found; });
keep("sample", () => (current ? `${current.cell}/${current.sample}` : ""), (text) => {
  current = data.samples.find((sample) => `${sample.cell}/${sample.sample}` === text) ?? null;
});
$("page-back").addEventListener("click", () => { page -= 1; drawPage(); });
$("page-on").addEventListener("click", () => { page += 1; drawPage(); });
$("sample-list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.closest("li")) return;
  const neighbour = event.target.closest("li")[step > 0 ? "nextElementSibling" : "previousElementSibling"];
  if (neighbour) { event.preventDefault(); neighbour.firstChild.focus(); neighbour.firstChild.click(); }
});
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { recall(); drawAll(); if (current) showCurrent(); });
window.addEventListener("resize", () => document.querySelectorAll("#cells, table.matrix").forEach(freeze));
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
drawHead();
recall();
drawAll();
if (current) showCurrent();
document.body.dataset.drawn = "yes"; // for tests
