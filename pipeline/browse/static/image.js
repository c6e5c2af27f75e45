// One image: the masks of a proposer as outlines, the annotation, stored and new answers, where it all comes from, and what is near a mask.

import { askForm, Words } from "./asking.js";
import { ask, byId, colour, decimals, el, head, here, notes, run, showError, staged, svg, tellRuns } from "./common.js";
import { nearMasks } from "./forms.js";

// `run`: whose stored answer is drawn; `asked`: the new answer that is drawn instead of it.
const state = { proposer: null, target: 0, run: null, asked: null, truth: true, mask: null };

const button = (text, pressed, act, more = {}) => el("button", { type: "button", "aria-pressed": String(pressed), click: act, ...more }, text);

class View {
  constructor(split, about, found) {
    Object.assign(this, { split, about, found, standing: {}, words: null });
    this.image = found.image;
    this.targets = Array.isArray(found.targets) ? found.targets : [];
    const proposers = Object.keys(found.proposers);
    state.proposer = proposers.find((name) => found.proposers[name].masks) ?? proposers[0] ?? null;
    const mask = here().get("mask");
    if (here().get("proposer") in found.proposers) state.proposer = here().get("proposer");
    if (mask !== null) state.mask = Number(mask);
  }

  get proposals() { return (state.proposer && this.found.proposers[state.proposer]) || { masks: [], iou: {} }; }
  get masks() { return this.proposals.masks ?? []; }
  get target() { return this.targets[state.target] ?? null; }
  iou(number) { return this.target ? (this.proposals.iou?.[this.target.target_id]?.[number] ?? null) : null; }

  build(place) {
    const { stage, layer } = staged(this.split, this.image, 1600);
    this.layer = layer;
    this.facts = el("div", { class: "about", id: "about", "aria-live": "polite" });
    this.layers = el("div", { id: "layers" });
    this.list = el("div", { id: "masks" });
    this.questions = el("div", { id: "questions" });
    this.near = el("div", { id: "nearest" });
    this.nearWords = el("div", { id: "words" });
    this.ask = el("div", { id: "asking" });
    const { id, path, width, height, status, error } = this.image;
    place.replaceChildren(
      el("h1", {}, el("bdi", {}, id)),
      el("div", { class: "label" }, el("bdi", {}, path), ` · ${width} × ${height} px`, status === "ok" ? "" : ` · ${status}: ${error ?? ""}`),
      el("div", { class: "two" },
        el("div", {}, stage, this.layers, this.nearWords, this.near, this.provenance()),
        el("div", {}, this.facts, this.questions, this.ask, this.list)),
    );
    this.draw();
  }

  // Called when it is known what the runs are, a moment after the rest is there.
  tell(runs) {
    this.standing = runs.answers;
    const draw = (answer) => {
      Object.assign(state, { asked: answer, run: null });
      this.drawAnswers();
    };
    this.ask.replaceChildren(...askForm(this.split, this.image, runs.askable, draw));
    this.words = new Words(this.split, this.image, runs.askable);
    this.drawLayers();
    this.drawQuestions();
    this.drawWords();
  }

  tags(name) {
    const { kind, about, outdated } = this.standing[name] ?? { outdated: [] };
    return [kind === "external" ? el("span", { class: "tag", title: about }, "external") : null,
      outdated.length ? el("span", { class: "tag outdated", title: outdated.join("; ") }, "outdated") : null];
  }

  draw() {
    this.drawTable();
    this.drawAnswers();
    this.choose(state.mask !== null && state.mask < this.masks.length ? state.mask : null);
  }

  // What changes with the answer that is shown; what was found near a mask stays.
  drawAnswers() {
    this.drawLayers();
    this.drawMasks();
    this.drawQuestions();
    this.mark();
  }

  drawLayers() {
    const set = (name, value) => () => {
      state[name] = value;
      if (name === "run") state.asked = null;
      if (name !== "proposer") { this.drawAnswers(); return; }
      state.mask = null;
      this.draw();
    };
    const proposers = Object.entries(this.found.proposers).map(([name, each]) =>
      button(`${name} (${each.total ?? each.error})`, name === state.proposer, set("proposer", name === state.proposer ? null : name)));
    const runs = Object.keys(this.found.runs).map((name) => button([name, this.tags(name)], name === state.run, set("run", name === state.run ? null : name)));
    this.layers.replaceChildren(
      el("div", { class: "row" }, el("span", { class: "label" }, "masks of"), proposers.length ? proposers : "no proposer"),
      ...(this.targets.length || this.found.instances.length
        ? [el("div", { class: "row" }, el("span", { class: "label" }, "annotation"), button("ground truth", state.truth, set("truth", !state.truth), { id: "truth" }))]
        : []),
      ...(runs.length ? [el("div", { class: "row", id: "runs" }, el("span", { class: "label" }, "answer of"), runs)] : []),
    );
  }

  drawMasks() {
    const paths = this.masks.map((mask) => svg("path", {
      d: mask.d, class: "mask", "data-number": mask.number, fill: colour(mask.number), stroke: colour(mask.number),
      mouseenter: () => this.describe(mask.number), mouseleave: () => this.describe(state.mask), click: () => this.choose(mask.number),
    }));
    this.layer.replaceChildren(...paths, ...this.annotation(), ...this.answer());
  }

  annotation() {
    if (!state.truth) return [];
    const shapes = this.target ? [this.target.d] : this.found.instances.map((instance) => instance.d);
    const ignored = this.target?.ignore ? [svg("path", { d: this.target.ignore, class: "ignored" })] : [];
    return [...ignored, ...shapes.filter(Boolean).map((d) => svg("path", { d, class: "truth" }))];
  }

  answers(name) { return (this.target && this.found.runs[name]?.answers?.[this.target.target_id]) || []; }

  answer() {
    if (state.asked) return state.asked.d ? [svg("path", { d: state.asked.d, class: "answer" })] : [];
    return state.run === null ? [] : this.answers(state.run).slice(0, 1).filter((one) => one.d).map((one) => svg("path", { d: one.d, class: "answer" }));
  }

  drawQuestions() {
    const choose = (number) => () => { state.target = number; this.draw(); };
    const lines = this.targets.map((target, number) => el("li", {}, el("button", {
      type: "button", class: number === state.target ? "chosen question" : "question", click: choose(number),
    }, (target.turns?.length ? target.turns : target.texts).flatMap((text, at) => [at ? " / " : null, el("bdi", {}, text)]))));
    const error = !Array.isArray(this.found.targets) && this.found.targets.error;
    this.questions.replaceChildren(
      ...(lines.length ? [el("h2", {}, "Questions"), el("ul", { class: "questions" }, lines)] : []),
      ...(error ? [el("div", { class: "note" }, error)] : []),
      ...(this.target ? [this.aboutTarget(), ...this.answersTable()] : []),
    );
  }

  aboutTarget() {
    const target = this.target;
    const names = target.instances.map((number) => `${number}${this.found.instances[number] ? ` (${this.found.instances[number].label})` : ""}`);
    const facts = [
      ["answer is", target.instances.length ? `instances ${names.join(", ")}` : "nothing in the image"],
      ["in words", target.answer], ["correction", target.correction], ["kind", target.kind],
      ["note", target.incomplete ? "the image may show more of it than is annotated" : null],
    ].filter(([, value]) => value);
    return el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  answersTable() {
    const rows = Object.entries(this.found.runs).flatMap(([name, each]) => {
      const first = () => el("td", {}, name, this.tags(name));
      if (each.error) return [el("tr", {}, first(), el("td", { colspan: 3 }, each.error))];
      const given = this.answers(name);
      if (!given.length) return [el("tr", {}, first(), el("td", { colspan: 3 }, "not answered"))];
      const show = () => { Object.assign(state, { run: name, asked: null }); this.drawAnswers(); };
      return given.map((one) => el("tr", { class: `pick ${name === state.run ? "chosen" : ""}`, click: show },
        first(), el("td", { class: "number" }, one.error ?? decimals(one.iou)),
        el("td", {}, one.rejected ? "refused" : one.chosen ? one.chosen.map((number) => (number < 0 ? `g${-1 - number}` : number)).join(", ") : "a mask of its own"),
        el("td", {}, el("bdi", {}, one.answer))));
    });
    if (!rows.length) return [];
    const titles = ["run", "IoU", "chose", "said"];
    return [el("h2", {}, "Stored answers"), el("div", { class: "tablebox", id: "answers" }, el("table", {},
      el("thead", {}, el("tr", {}, titles.map((title) => el("th", { class: title === "IoU" ? "number" : null }, title)))), el("tbody", {}, rows)))];
  }

  drawTable() {
    const { masks, error, total } = this.proposals;
    if (error) { this.list.replaceChildren(el("div", { class: "note" }, error)); return; }
    if (!masks.length) { this.list.replaceChildren(); return; }
    const titles = ["mask", "area, px", "predicted IoU", "stability", ...(this.target ? ["IoU"] : [])];
    const rows = masks.map((mask) => el("tr", { class: "pick", tabindex: 0, "data-number": mask.number,
      click: () => this.choose(mask.number), keydown: (event) => { if (event.key === "Enter") this.choose(mask.number); },
      mouseenter: () => this.describe(mask.number), mouseleave: () => this.describe(state.mask) },
    el("td", { class: "number" }, this.named(mask.number)), ...[mask.area, decimals(mask.predicted_iou), decimals(mask.stability),
      ...(this.target ? [decimals(this.iou(mask.number))] : [])].map((value) => el("td", { class: "number" }, String(value)))));
    this.list.replaceChildren(
      el("h2", {}, masks.length < total ? `The ${masks.length} largest of ${total} masks of ${state.proposer}` : `${total} masks of ${state.proposer}`),
      el("div", { class: "tablebox" }, el("table", {}, el("thead", {}, el("tr", {}, titles.map((title) => el("th", { class: "number" }, title)))), el("tbody", {}, rows))));
  }

  named(number) {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colour(number);
    return el("span", {}, swatch, String(number));
  }

  // What is known of the mask that the pointer is over.
  describe(number) {
    for (const path of this.layer.querySelectorAll(".mask")) path.classList.toggle("over", Number(path.dataset.number) === number);
    const mask = number === null ? null : this.masks[number];
    if (!mask) { this.facts.replaceChildren(this.masks.length ? "Point at a mask, or click it." : ""); return; }
    const facts = [["mask", this.named(number)], ["area", `${mask.area} px`], ["predicted IoU", decimals(mask.predicted_iou)], ["stability", decimals(mask.stability)]];
    if (this.target) facts.push(["IoU with the target", decimals(this.iou(number))]);
    this.facts.replaceChildren(el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  }

  choose(number) {
    state.mask = number;
    this.mark();
    this.drawNearest();
    this.drawWords();
  }

  mark() {
    for (const each of [...this.layer.querySelectorAll(".mask"), ...this.list.querySelectorAll("tr.pick")]) {
      each.classList.toggle("chosen", state.mask !== null && Number(each.dataset.number) === state.mask);
    }
    this.describe(state.mask);
  }

  drawWords() {
    this.nearWords.replaceChildren(...(state.mask === null || !this.words ? [] : this.words.of(state.proposer, state.mask)));
  }

  drawNearest() {
    const encoders = Object.entries(this.about.encoders[state.proposer] ?? {});
    if (state.mask === null || !encoders.length) { this.near.replaceChildren(); return; }
    const apart = el("input", { type: "checkbox", id: "apart", checked: true });
    const results = el("div", { id: "neighbours" });
    const named = (column) => (column.startsWith("centered/") ? `minus mean ${column.split("/")[1]}` : "as embedded");
    const rows = encoders.map(([encoder, columns]) => el("div", { class: "row" }, el("span", { class: "label" }, encoder),
      columns.map((column) => el("button", { type: "button", "data-column": column, click: () => this.search(column, apart.checked, results) }, named(column)))));
    this.near.replaceChildren(el("h2", {}, `Masks of ${this.split} nearest to mask ${state.mask}, by the vectors of`), ...rows,
      el("label", { class: "row" }, apart, "only one mask of each image"), results);
  }

  async search(column, apart, place) {
    const params = new URLSearchParams({ split: this.split, index: this.image.index, mask: state.mask, column, apart: apart ? "yes" : "no" });
    try {
      place.replaceChildren(nearMasks(this.split, await ask("nearest", params, place)));
    } catch (error) {
      showError(place, error);
    }
  }

  provenance() {
    const place = el("div", {});
    const box = el("details", { id: "provenance", toggle: async () => {
      if (!box.open || place.childElementCount) return;
      try {
        const found = await ask("provenance", new URLSearchParams({ split: this.split, index: this.image.index }), place);
        place.replaceChildren(...found.columns.map(column));
      } catch (error) {
        showError(place, error);
      }
    } }, el("summary", {}, "Where it comes from, and whether it is current"), place);
    return box;
  }
}

function column({ column: name, state: is, why, facts }) {
  const value = (item) => (typeof item === "object" ? el("pre", {}, JSON.stringify(item, null, 1)) : String(item));
  const lines = Object.entries(facts).filter(([, item]) => item !== null && item !== "" && !(typeof item === "object" && !Object.keys(item).length));
  return el("details", { "data-column": name }, el("summary", {}, name, " – ", el("span", { class: `state-${is.replaceAll(" ", "-")}` }, is), why ? `: ${why}` : ""),
    el("dl", {}, lines.flatMap(([title, item]) => [el("dt", {}, title), el("dd", {}, value(item))])));
}

// The images before and after this one, among those that the grid showed. The way back is there at once, so that
// nothing below it moves under the pointer when the rest is known.
async function neighbours(split, index) {
  const query = here();
  for (const name of ["index", "after", "before", "mask", "proposer"]) query.delete(name);
  query.set("split", split);
  const back = el("a", { href: `/?${query}`, id: "back" }, "all pictures");
  byId("pager").replaceChildren(back);
  const params = new URLSearchParams(query);
  params.set("index", index);
  const found = await ask("place", params);
  const to = (id, text, image) => {
    if (image === null) return el("span", { class: "count" }, text);
    const next = new URLSearchParams(query);
    next.set("index", image);
    return el("a", { id, href: `/image?${next}` }, text);
  };
  byId("pager").replaceChildren(back, to("previous", "‹ previous", found.before),
    el("span", { class: "count" }, `${found.place + 1} of ${found.total}`), to("next", "next ›", found.after));
}

document.addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select, textarea, .tablebox") || event.altKey || event.ctrlKey || event.metaKey) return;
  const link = byId({ ArrowLeft: "previous", ArrowRight: "next" }[event.key] ?? "");
  if (link) link.click();
});

run(byId("waiting"), async () => {
  const split = await head("image");
  const index = here().get("index") ?? "0";
  const [about, found] = await Promise.all([ask("split", new URLSearchParams({ split })), ask("image", new URLSearchParams({ split, index }))]);
  byId("notes").replaceChildren(...notes(about));
  const view = new View(split, about, found);
  view.build(byId("content"));
  const beside = neighbours(split, index);
  document.body.dataset.ready = "yes";
  await beside;
  view.tell(await tellRuns(split));
  document.body.dataset.runs = "yes";
});
