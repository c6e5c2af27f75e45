// Two runs, or two proposers, side by side, sorted by how much they differ.

import { ask, byId, colour, el, figure, head, here, notes, run, staged, svg, tellRuns } from "./common.js";
import { field, pager, select, submits } from "./forms.js";

const LIMIT = 12;
const COMPARED = ["run", "best", "masks"];

const kind = (measure) => measure.split(":")[0];
const named = (measure) => measure.slice(measure.indexOf(":") + 1);

// The measures that can be compared, and the two that are, of one kind.
function choices(about, params) {
  const known = Object.entries(about.measures).filter(([name]) => COMPARED.includes(kind(name)));
  const names = known.map(([name]) => name);
  const first = names.includes(params.get("a")) ? params.get("a") : (COMPARED.flatMap((one) => {
    const same = names.filter((name) => kind(name) === one);
    return same.length > 1 ? [same[0]] : [];
  })[0] ?? names[0]);
  const second = names.includes(params.get("b")) ? params.get("b") : (names.find((name) => name !== first && kind(name) === kind(first ?? "")) ?? names[1]);
  return { known, a: first, b: second };
}

function form(place, split, known, a, b, params) {
  const orders = [["down", "where A is ahead"], ["up", "where B is ahead"]];
  place.replaceChildren(
    field("A", select("a", known, a)), field("B", select("b", known, b)), field("first", select("order", orders, params.get("order") ?? "down")),
    field("question or name contains", el("input", { name: "text", type: "search", value: params.get("text") ?? "" })),
    el("button", { type: "submit" }, "Compare"));
  submits(place, "/compare", () => {
    const asked = new URLSearchParams({ split });
    for (const name of ["a", "b", "order", "text"]) if (place.elements[name].value) asked.set(name, place.elements[name].value);
    return asked;
  });
}

// Draws what a measure is of: a run's answers in magenta, or a proposer's masks; the annotation dashed.
function draw(layer, measure, found) {
  const name = named(measure);
  const targets = Array.isArray(found.targets) ? found.targets : [];
  if (kind(measure) === "run") {
    const answers = Object.values(found.runs[name]?.answers ?? {}).flatMap((given) => given.slice(0, 1));
    layer.append(...answers.filter((one) => one.d).map((one) => svg("path", { d: one.d, class: "answer" })));
  } else {
    const masks = found.proposers[name]?.masks ?? [];
    layer.append(...masks.map((mask) => svg("path", { d: mask.d, class: "mask", fill: colour(mask.number), stroke: colour(mask.number) })));
  }
  layer.append(...targets.filter((target) => target.d).map((target) => svg("path", { d: target.d, class: "truth" })));
}

function said(measure, found) {
  if (kind(measure) !== "run") return "";
  const answers = Object.values(found.runs[named(measure)]?.answers ?? {}).flatMap((given) => given.slice(0, 1));
  return answers.map((one) => (one.rejected ? "refused" : one.answer)).filter(Boolean).join(" / ");
}

async function pair(split, item, a, b, titles) {
  const found = await ask("image", new URLSearchParams({ split, index: item.index }));
  const side = (measure) => {
    const { stage, layer } = staged(split, found.image, 1600);
    draw(layer, measure, found);
    return el("figure", {}, el("figcaption", {}, `${titles[measure]}: ${figure(item.values[measure])} `, el("bdi", {}, said(measure, found))), stage);
  };
  return el("div", { class: "sides" }, side(a), side(b));
}

run(byId("waiting"), async () => {
  const split = await head("compare");
  const params = here();
  const about = await ask("split", new URLSearchParams({ split }));
  byId("notes").replaceChildren(...notes(about));
  const { known, a, b } = choices(about, params);
  if (!a || !b) {
    byId("content").replaceChildren("There are no two runs or proposers in this split to compare.");
    document.body.dataset.ready = "yes";
    return;
  }
  form(byId("filters"), split, known, a, b, params);
  const query = new URLSearchParams({ split, a, b, sort: "difference", order: params.get("order") ?? "down", limit: LIMIT });
  for (const name of ["text", "after", "before"]) if (params.get(name)) query.set(name, params.get(name));
  const asked = new URLSearchParams(query);
  for (const measure of new Set([a, b])) asked.append("show", measure);
  const found = await ask("page", asked, byId("waiting"));
  for (const name of ["limit", "sort"]) query.delete(name);
  pager(byId("pager"), query, found, "/compare");
  const places = found.items.map((item) => {
    const address = new URLSearchParams({ split, index: item.index });
    return el("li", {}, el("a", { href: `/image?${address}` }, el("bdi", {}, item.id)), ` · A – B: ${figure(item.value)} · `, el("bdi", { class: "question" }, item.text));
  });
  byId("content").replaceChildren(el("ul", { id: "pairs", class: "pairs" }, places));
  for (const [number, item] of found.items.entries()) places[number].append(await pair(split, item, a, b, about.measures));
  document.body.dataset.ready = "yes";
  await tellRuns(split);
});
