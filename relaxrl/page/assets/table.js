"use strict";
// Tables that sort by a click on a heading and show the rows that a search finds; buttons that copy.
const Tables = (() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };

  function compare(a, b) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sortBy(table, column, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, value(row, column)]);
    // What is unknown stays last, whichever way.
    rows.sort(([, a], [, b]) => (a === null || b === null ? compare(a, b) : descending ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      if (k === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sortBy(table, column, now ? now === "ascending" : head.dataset.first === "descending");
      });
    });
  }

  function searchable(table, field, count) {
    const words = new Map([...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]));
    const total = words.size;
    const filter = () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of words) {
        row.hidden = !wanted.every((word) => text.includes(word));
        if (!row.hidden) shown += 1;
      }
      count.textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
    };
    field.addEventListener("input", filter);
    filter();
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => {
      const source = document.getElementById(button.dataset.copy);
      const said = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
      const select = () => { getSelection().selectAllChildren(source); said("Selected: Ctrl-C"); };
      if (navigator.clipboard) navigator.clipboard.writeText(source.textContent).then(() => said("Copied"), select);
      else select();
    });
  }
  return { sortable, searchable, sortBy };
})();
