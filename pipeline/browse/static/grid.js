// The grid: filters, an order, and a page of pictures. The address holds all of it.

import { ask, byId, el, figure, head, here, notes, picture, run, tellRuns } from "./common.js";
import { field, pager, select, submits } from "./forms.js";

const FILTERS = ["text", "empty", "failed", "sort", "order"];

// "measure:least:most" in an address -> measure -> [least, most].
function ranges(params) {
  const found = new Map();
  for (const text of params.getAll("range")) {
    const parts = text.split(":");
    const [least, most] = parts.splice(-2);
    found.set(parts.join(":"), [least, most]);
  }
  return found;
}

// The form's choices as an address; what says nothing is left out.
function chosen(form, split) {
  const params = new URLSearchParams({ split });
  for (const name of FILTERS) if (form.elements[name].value) params.set(name, form.elements[name].value);
  for (const pair of form.querySelectorAll(".pair")) {
    const measure = pair.querySelector("select").value;
    const [least, most] = [...pair.querySelectorAll("input")].map((input) => input.value.trim());
    if (measure && (least || most)) params.append("range", `${measure}:${least}:${most}`);
  }
  return params;
}

function rangeField(title, measures, given) {
  const [name, [least, most]] = given ?? ["", ["", ""]];
  const number = (value, label) => el("input", { type: "number", step: "any", value, placeholder: label, "aria-label": `${title}: ${label}` });
  const which = el("select", { "aria-label": title }, el("option", { value: "" }, "–"),
    measures.map(([value, text]) => el("option", { value, selected: value === name }, text)));
  return field(title, el("span", { class: "pair" }, which, number(least, "from"), number(most, "to")));
}

function filters(form, split, about, params) {
  const measures = Object.entries(about.measures);
  const given = [...ranges(params)];
  const yesNo = [["", "all"], ["yes", "only"], ["no", "without"]];
  const asked = "questions" in about.measures;
  form.replaceChildren(
    field("question or name contains", el("input", { name: "text", type: "search", value: params.get("text") ?? "" })),
    field("with no answer in the image", asked ? select("empty", yesNo, params.get("empty")) : select("empty", [["", "all"]], "")),
    field("failed", select("failed", yesNo, params.get("failed"))),
    rangeField("range", measures, given[0]),
    rangeField("and range", measures, given[1]),
    field("sort by", select("sort", [["", "the split's order"], ...measures], params.get("sort"))),
    field("order", select("order", [["", "smallest first"], ["down", "largest first"]], params.get("order"))),
    el("button", { type: "submit" }, "Show"),
    el("button", { type: "button", id: "clear", click: () => location.assign(`/?${new URLSearchParams({ split })}`) }, "Clear"),
  );
  submits(form, "/", () => chosen(form, split));
}

function card(split, item, about, query) {
  const params = new URLSearchParams(query);
  params.set("split", split);
  params.set("index", item.index);
  const facts = Object.entries(item.masks).map(([name, count]) => `${count} masks${about.proposers.length > 1 ? ` of ${name}` : ""}`);
  if (query.get("sort")) facts.unshift(`${about.measures[query.get("sort")] ?? "value"}: ${figure(item.value)}`);
  if (item.questions > 1) facts.push(`${item.questions} questions`);
  return el("li", { class: "card" }, el("a", { href: `/image?${params}` },
    picture(split, item, 320, { class: "thumb" }),
    el("div", { class: "words" }, el("bdi", { class: "text" }, item.text), el("bdi", { class: "name" }, item.id),
      el("div", { class: "facts" }, facts.join(" · ")))));
}

run(byId("waiting"), async () => {
  const split = await head("grid");
  const query = here();
  query.set("split", split);
  const [about, found] = await Promise.all([ask("split", new URLSearchParams({ split })), ask("page", query, byId("waiting"))]);
  byId("notes").replaceChildren(...notes(about));
  filters(byId("filters"), split, about, query);
  pager(byId("pager"), query, found, "/");
  const cards = found.items.map((item) => card(split, item, about, query));
  byId("content").replaceChildren(el("ul", { id: "grid", class: "grid" }, cards.length ? cards : el("li", { class: "note" }, "No image passes these filters.")));
  document.body.dataset.ready = "yes";
  await tellRuns(split);
});
