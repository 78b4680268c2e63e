// ---- The state of the view in the address ----------------------------------------------------------------
// `#cell-model=NAME&sort=Score,down`: what is chosen, and nothing that is as it was at first. A link keeps it.
const kept = {};

// read: the state as text, "" for none; write: sets it; both without drawing.
function keep(name, read, write) {
  kept[name] = { read, write };
}
function keepField(id, redraw) {
  const field = $(id), first = field.value, event = field.tagName === "SELECT" ? "change" : "input";
  const plain = (value) => (value.startsWith('"') ? JSON.parse(value) : value);
  keep(id, () => (field.value === first ? "" : field.tagName === "SELECT" ? plain(field.value) || "all" : field.value), (text) => {
    if (field.tagName !== "SELECT") field.value = text;
    else {
      const known = [...field.options].find((option) => text && (option.value === text || plain(option.value) === text));
      field.value = known ? known.value : text === "all" ? "" : first;
    }
  });
  field.addEventListener(event, () => { redraw(); remember(); });
}
function keepSorting(columns, read, write) {
  keep("sort", () => (read().column < 0 ? "" : `${columns[read().column].name},${read().down ? "down" : "up"}`), (text) => {
    const [name, direction] = text.split(",");
    write({ column: columns.findIndex((column) => column.name === name), down: direction === "down" });
  });
}
function remember() {
  const state = new URLSearchParams();
  for (const [name, { read }] of Object.entries(kept)) if (read()) state.set(name, read());
  const address = state.size ? `#${state}` : window.location.pathname + window.location.search;
  if (`#${state}` !== window.location.hash) window.history.replaceState(null, "", address);
}
function recall() {
  const hash = window.location.hash.slice(1);
  if (hash && !hash.includes("=")) return; // a section of the page
  const state = new URLSearchParams(hash);
  for (const [name, { write }] of Object.entries(kept)) write(state.get(name) ?? "");
}
