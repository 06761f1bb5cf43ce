"use strict";
const table = document.getElementById("cases");

function compare(a, b, column) {
  if (column === 0) return a.cells[0].textContent.localeCompare(b.cells[0].textContent, undefined, { numeric: true });
  const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
  if (x === "" || y === "") return NaN;
  return x - y;
}

function sortBy(column, descending) {
  const body = table.tBodies[0];
  const empty = (row) => column > 0 && row.cells[column].dataset.value === "";
  const rows = [...body.rows].sort((a, b) => {
    // cases without a number stay at the end, whatever the order
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    return descending ? compare(b, a, column) : compare(a, b, column);
  });
  body.append(...rows);
  for (const head of table.querySelectorAll("[data-column]")) {
    if (Number(head.dataset.column) !== column) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  }
}

function choose(head) {
  sortBy(Number(head.dataset.column), head.getAttribute("aria-sort") === "ascending");
}

if (table) {
  for (const head of table.querySelectorAll("[data-column]")) {
    head.tabIndex = 0;
    head.addEventListener("click", () => choose(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") choose(head);
    });
  }
  // report.html#sort=1 or #sort=-1 opens the table sorted by that column, for links to a view
  const wanted = location.hash.match(/^#sort=(-?)(\d+)$/);
  const known = wanted && table.querySelector(`[data-column="${wanted[2]}"]`);
  if (known) sortBy(Number(wanted[2]), wanted[1] === "-");
  else sortBy(0, false);

  for (const link of document.querySelectorAll("svg a")) {
    const row = document.getElementById(link.getAttribute("xlink:href").slice(1));
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = row.cells[0].textContent;
    link.append(title);
  }
}
