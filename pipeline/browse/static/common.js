// What all pages share: building elements, asking the server, and the head of a page.
// Text that comes from data only ever becomes a text node or an attribute's value.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const here = () => new URLSearchParams(location.search);
export const byId = (id) => document.getElementById(id);

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const POLL_MS = 400;

// The server's answer to a question. While it works, `waiting` (an element) shows how far it is.
export async function ask(name, params, waiting = null) {
  for (;;) {
    const response = await fetch(`/api/${name}?${params}`);
    const found = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    if (response.status !== 202) {
      if (waiting) waiting.replaceChildren();
      if (!response.ok) throw new Error(found.error ?? `the server answered ${response.status}`);
      return found;
    }
    if (waiting) {
      const { title, done, total } = found.waiting;
      const bar = el("progress", total ? { max: total, value: done } : {});
      waiting.replaceChildren(el("div", { class: "waiting", role: "status" }, `Working on ${title} …`, bar));
    }
    await sleep(POLL_MS);
  }
}

export function showError(place, error) {
  place.replaceChildren(el("div", { class: "error", role: "alert" }, error.message));
}

// Runs a page; what goes wrong is said on it.
export async function run(place, work) {
  try {
    await work();
  } catch (error) {
    showError(place, error);
  }
}

export const pictureAddress = (split, image, side, box = null) => {
  const params = new URLSearchParams({ split, index: image.index, side, v: (image.sha256 ?? "").slice(0, 16) });
  if (box) params.set("box", box.join(","));
  return `/picture?${params}`;
};

// A picture; where it cannot be shown, the reason.
export function picture(split, image, side, attributes = {}, box = null) {
  const gone = (why) => el("div", { class: `gone ${attributes.class ?? ""}` }, why);
  if ((image.status ?? "ok") !== "ok") return gone(`${image.status}: ${image.error ?? "no picture"}`);
  const address = pictureAddress(split, image, side, box);
  const shown = el("img", { src: address, alt: image.id, loading: "lazy", decoding: "async", ...attributes });
  shown.addEventListener("error", async () => {
    let why = "no picture";
    try {
      why = (await (await fetch(address)).json()).error ?? why;
    } catch { /* the server is gone: nothing more can be said */ }
    shown.replaceWith(gone(why));
  });
  return shown;
}

// The same number has the same colour in every picture, and neighbours differ.
export const colour = (number) => `hsl(${((number * 0.618033988749895) % 1) * 360} 90% 55%)`;

export const decimals = (value, places = 3) => (value === null || value === undefined ? "–" : value.toFixed(places));
export const figure = (value) => (value === null || value === undefined ? "–" : Number.isInteger(value) ? String(value) : value.toFixed(3));

// A picture with masks over it: {stage, layer}; paths go into the layer, in the frame of the image.
export function staged(split, image, side, box = null) {
  const frame = box ?? [0, 0, image.width, image.height];
  const layer = svg("svg", { viewBox: frame.join(" "), preserveAspectRatio: "none", "aria-hidden": "true" });
  const stage = el("div", { class: "stage" }, picture(split, image, side, { width: frame[2], height: frame[3] }, box), layer);
  return { stage, layer };
}

// The head of a page: which split, and the other pages.
export async function head(page) {
  const { splits, store } = await ask("splits", "");
  const params = here();
  const split = splits.includes(params.get("split")) ? params.get("split") : (params.get("split") ?? splits[0]);
  const choose = el("select", { id: "split", "aria-label": "split", change: () => go(location.pathname === "/image" ? "/" : location.pathname, { split: choose.value }) },
    splits.map((name) => el("option", { value: name, selected: name === split }, name)));
  const link = (name, address, text) => el("a", { href: `${address}?${new URLSearchParams({ split })}`, "aria-current": name === page ? "page" : null }, text);
  byId("head").replaceChildren(
    el("strong", {}, "ELISA feature store"),
    el("nav", {}, link("grid", "/", "Pictures"), link("search", "/search", "Find by words"), link("compare", "/compare", "Compare")),
    choose,
    el("button", { id: "again", type: "button", title: "Open the split again: something may have been computed since",
      click: async () => { await ask("split", new URLSearchParams({ split, again: "yes" })); location.reload(); } }, "Read again"),
    el("span", { class: "label" }, store),
  );
  document.title = `${split} – ELISA feature store`;
  return split;
}

export function go(path, params) {
  location.assign(`${path}?${new URLSearchParams(params)}`);
}

export function notes(found) {
  return found.notes.map((note) => el("div", { class: "note" }, note));
}

// What is known of the runs. Outdated answers are said in a note, below the rest because it comes
// last and must move nothing under the pointer, and wherever a form offers their run.
export async function tellRuns(split) {
  const runs = await ask("runs", new URLSearchParams({ split }));
  for (const [name, { outdated, command }] of Object.entries(runs.answers)) {
    if (!outdated.length) continue;
    byId("outdated").append(el("div", { class: "note" }, "Answers of ", el("bdi", {}, name), ` are outdated: ${outdated.slice(0, 3).join("; ")}`,
      outdated.length > 3 ? ` and ${outdated.length - 3} more` : "", command ? el("span", {}, ". To make them again: ", el("code", {}, command)) : ""));
    for (const option of document.querySelectorAll("option")) if (option.value === `run:${name}`) option.append(" (outdated)");
  }
  return runs;
}
