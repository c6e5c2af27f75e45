"use strict";
// The table of all questions: a page of it at a time, those that hold some words, in the order of a column.
{
  const table = document.getElementById("every");
  const tools = document.getElementById("tools");
  const search = tools.querySelector("input");
  const [back, forth] = tools.querySelectorAll("button");
  const said = tools.querySelector("output");
  const body = table.tBodies[0];
  const size = Number(table.dataset.size);
  const rows = [...body.rows].map(row => ({ row, text: row.textContent.toLowerCase() }));
  let found = rows;
  let first = 0;
  let column = -1;
  let descending = false;

  const value = ({ row }) => {
    const cell = row.cells[column];
    // A question that a system has not answered stands last, whichever way.
    return "value" in cell.dataset ? (cell.dataset.value === "" ? NaN : Number(cell.dataset.value)) : cell.textContent;
  };
  const compare = (left, right) => {
    const [one, other] = [value(left), value(right)];
    if (typeof one === "string") return (descending ? -1 : 1) * one.localeCompare(other, undefined, { numeric: true });
    if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
    return descending ? other - one : one - other;
  };
  const show = () => {
    body.replaceChildren(...found.slice(first, first + size).map(({ row }) => row));
    said.textContent = found.length
      ? `${first + 1} to ${Math.min(first + size, found.length)} of ${found.length}`
      : "no question holds these words";
    back.disabled = first === 0;
    forth.disabled = first + size >= found.length;
  };
  const choose = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter(({ text }) => words.every(word => text.includes(word)));
    if (column >= 0) found.sort(compare);
    first = 0;
    show();
  };

  [...table.tHead.rows[0].cells].forEach((cell, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      descending = column === number && !descending;
      column = number;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      choose();
    });
  });
  search.addEventListener("input", choose);
  back.addEventListener("click", () => { first -= size; show(); });
  forth.addEventListener("click", () => { first += size; show(); });
  tools.hidden = false;
  show();
  body.hidden = false;
}
