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
  node.append(...children.filter((child) => child !== null && child !== undefined).map(asNode));
  return node;
}
const asNode = (child) => (child instanceof Node ? child : document.createTextNode(visible(child)));

const missing = (value) => value === null || value === undefined || value === "";
function number(value, digits = 4) {
  if (missing(value)) return "";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}
const length = (tokens) => (missing(tokens) ? "" : tokens % 1024 === 0 ? `${tokens / 1024}K` : String(tokens));
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits).replace("-", "\u2212");
// Two digits tell 0.71 and 0.98 apart, but not 10.45 and 10.55: an interval has the digits that its width asks for.
function range(low, high, digits = 3) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const needed = low < high ? Math.max(digits, Math.floor(Math.log10(size / (high - low)) + 2.3)) : digits;
  return make("span", { class: "range" }, missing(low) ? " [too few]" : ` [${number(low, needed)}, ${number(high, needed)}]`);
}
const unique = (values) => [...new Set(values)];

function options(select, values, label = (value) => value, none = "all") {
  select.append(make("option", { value: "" }, none));
  for (const value of values) select.append(make("option", { value: JSON.stringify(value) }, label(value)));
}
const chosen = (id) => ($(id).value === "" ? undefined : JSON.parse($(id).value));
const fits = (id, value) => chosen(id) === undefined || chosen(id) === value;

// Empty values come last, whatever the direction.
function inOrder(x, y, sign = 1) {
  if (missing(x) || missing(y)) return missing(x) - missing(y);
  return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
}

// Columns that stay in sight when a table scrolls sideways: each is placed after the ones before it.
function freeze(table) {
  let left = 0;
  for (const cell of table.tHead.rows[0].querySelectorAll(".frozen")) {
    table.style.setProperty(`--left-${cell.cellIndex}`, `${left}px`);
    left += cell.getBoundingClientRect().width;
  }
}

// Rows in the order of a column, and what heads their groups where the column is sorted within each group.
function sorted(rows, columns, sorting) {
  const column = columns[sorting.column];
  if (!column) return { rows, heading: null };
  const groups = column.within ? unique(rows.map(column.within)) : [];
  const group = (row) => groups.indexOf(column.within(row));
  const found = [...rows].sort((a, b) => (groups.length && group(a) - group(b)) || inOrder(column.key(a), column.key(b), sorting.down ? -1 : 1));
  return { rows: found, heading: groups.length > 1 ? column.within : null };
}
function markSorted(table, sorting) {
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    if (index === sorting.column) cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}
