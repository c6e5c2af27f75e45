// Parts of the forms, the links from page to page, and masks as a list of small pictures.

import { decimals, el, staged, svg } from "./common.js";

export function select(name, choices, chosen) {
  return el("select", { name }, choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

export const field = (title, control) => el("label", {}, title, control);

export const checkbox = (name, title, checked) => el("label", { class: "check" }, el("input", { type: "checkbox", name, checked }), title);

// A form whose choices, without those that say nothing, become the address of a page.
export function submits(form, path, chosen) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.assign(`${path}?${chosen()}`);
  });
}

// Links to the pages before and after one, told by its first and last image.
export function pager(place, query, found, path) {
  const cursor = (item) => `${item.value ?? ""},${item.index}`;
  const to = (which, item) => {
    const params = new URLSearchParams(query);
    params.delete("after");
    params.delete("before");
    if (item) params.set(which, cursor(item));
    return `${path}?${params}`;
  };
  const { items, first, total } = found;
  const last = first + items.length;
  const link = (id, text, address) => (address ? el("a", { id, href: address }, text) : el("span", { class: "count" }, text));
  place.replaceChildren(
    link("first", "« first", first > 0 ? to("", null) : null),
    link("previous", "‹ previous", first > 0 ? to("before", items[0]) : null),
    el("span", { id: "count", class: "count" }, items.length ? `${first + 1}–${last} of ${total}` : `0 of ${total}`,
      total < found.images ? ` (${found.images} images)` : ""),
    link("next", "next ›", last < total ? to("after", items.at(-1)) : null),
  );
}

// Masks of other images, each cut out of its picture, with its cosine.
export function nearMasks(split, { masks, proposer }) {
  if (!masks.length) return el("div", { class: "note" }, "No mask has a vector to compare with.");
  return el("ul", { class: "neighbours" }, masks.map((mask) => {
    const { stage, layer } = staged(split, mask, 320, mask.crop);
    layer.append(svg("path", { d: mask.d, class: "answer" }));
    const to = new URLSearchParams({ split, index: mask.index, mask: mask.mask, proposer });
    return el("li", {}, el("a", { href: `/image?${to}` }, stage, el("bdi", {}, mask.id), `, mask ${mask.mask}: ${decimals(mask.cosine)}`));
  }));
}
