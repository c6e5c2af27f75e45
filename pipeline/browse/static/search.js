// Words -> the masks of the split that are nearest to them. The address holds the question.

import { ask, byId, el, head, here, notes, run } from "./common.js";
import { checkbox, field, nearMasks, select, submits } from "./forms.js";

const named = (column) => column.split("/").slice(1).reverse().join(", masks of ");

function form(place, split, columns, params) {
  place.replaceChildren(
    field("show masks of", el("input", { name: "text", type: "search", required: true, value: params.get("text") ?? "", placeholder: "a red mug" })),
    field("by the vectors of", select("column", columns.map((column) => [column, named(column)]), params.get("column"))),
    checkbox("apart", "only one mask of each image", params.get("apart") !== "no"),
    el("button", { type: "submit" }, "Search"));
  submits(place, "/search", () => new URLSearchParams({
    split, text: place.elements.text.value, column: place.elements.column.value, apart: place.elements.apart.checked ? "yes" : "no",
  }));
}

// Why the vectors of other encoders cannot be searched by words.
function others(about) {
  const reasons = new Set(Object.entries(about.texts).filter(([column, why]) => why && !column.startsWith("centered/")).map(([, why]) => why));
  return reasons.size ? [el("details", { id: "others" }, el("summary", {}, "Vectors that cannot be searched by words"), [...reasons].map((why) => el("div", {}, why)))] : [];
}

run(byId("waiting"), async () => {
  const split = await head("search");
  const params = here();
  const about = await ask("split", new URLSearchParams({ split }));
  byId("notes").replaceChildren(...notes(about));
  const columns = Object.keys(about.texts).filter((column) => !about.texts[column]);
  if (columns.length) form(byId("filters"), split, columns, params);
  else byId("content").replaceChildren(`${split} has no vectors that words can be compared with.`);
  if (columns.length && params.get("text")) {
    const asked = new URLSearchParams({ split, text: params.get("text"), column: params.get("column") ?? columns[0], apart: params.get("apart") ?? "yes" });
    byId("content").replaceChildren(nearMasks(split, await ask("described", asked, byId("waiting"))));
  }
  byId("content").append(...others(about));
  document.body.dataset.ready = "yes";
});
