// Questions to trained runs, and the words of a language model that are near a mask.

import { ask, decimals, el, showError } from "./common.js";
import { checkbox, field, select } from "./forms.js";

// The form, the answers below it, newest first, and which runs cannot be asked. `draw` gets the answer that is to be drawn.
export function askForm(split, image, runs, draw) {
  const able = runs.filter(({ why }) => !why);
  const refused = runs.filter(({ why }) => why).map(({ name, why }) => el("details", { class: "refused" }, el("summary", {}, `${name} cannot be asked`), el("pre", {}, why)));
  if (!able.length) return refused;
  const waiting = el("div", {});
  const answers = el("ul", { class: "questions", id: "asked" });
  const form = el("form", { id: "ask", class: "filters", autocomplete: "off" },
    field("ask", select("run", able.map(({ name }) => [name, name]))),
    field("question", el("input", { name: "question", required: true, maxlength: 2000, placeholder: "What could one drink from?" })),
    checkbox("phrase", "a noun phrase", false),
    el("button", { type: "submit" }, "Ask"));
  const show = (answer) => {
    for (const each of answers.querySelectorAll("button")) each.classList.toggle("chosen", each.answer === answer);
    draw(answer);
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { run, question, phrase } = form.elements;
    const params = new URLSearchParams({ split, index: image.index, run: run.value, question: question.value, phrase: phrase.checked ? "yes" : "no" });
    const submit = form.querySelector("button");
    submit.disabled = true;
    try {
      const answer = await ask("ask", params, waiting);
      const line = el("button", { type: "button", class: "question", click: () => show(answer) }, said(answer));
      line.answer = answer;
      answers.prepend(el("li", {}, line));
      show(answer);
    } catch (error) {
      showError(waiting, error);
    } finally {
      submit.disabled = false;
    }
  });
  return [el("h2", {}, "Ask"), form, waiting, answers, ...refused];
}

function said({ run, question, answer, rejected, area, chosen, iou }) {
  const masks = !area ? "no mask answers this" : chosen ? `mask${chosen.length > 1 ? "s" : ""} ${chosen.join(", ")}` : "a mask of its own";
  const facts = [masks, area ? `${area} px` : null, rejected ? "refused" : null, iou === null ? null : `IoU ${decimals(iou)}`].filter(Boolean);
  return [el("span", { class: "label" }, run), " ", el("bdi", {}, question), el("br"), el("bdi", { class: "said" }, answer), " ", el("span", { class: "label" }, facts.join(" · "))];
}

// The words near the masks of one image. They are asked for once per run, for all masks together.
export class Words {
  constructor(split, image, runs) {
    Object.assign(this, { split, image, found: new Map() });
    this.runs = runs.filter(({ words, why }) => words && !why);
  }

  // What is shown for a mask: a button for each run, and the words that are there.
  of(proposer, number) {
    const runs = this.runs.filter((run) => run.proposer === proposer);
    if (!runs.length) return [];
    const rows = runs.map((run) => {
      const place = el("div", {});
      const draw = (found) => place.replaceChildren(list(found.words[number]));
      const search = async () => {
        try {
          if (!this.found.has(run.name)) this.found.set(run.name, await ask("words", new URLSearchParams({ split: this.split, index: this.image.index, run: run.name }), place));
          draw(this.found.get(run.name));
        } catch (error) {
          showError(place, error);
        }
      };
      if (this.found.has(run.name)) draw(this.found.get(run.name));
      return el("div", {}, el("button", { type: "button", "data-words": run.name, click: search }, run.name), place);
    });
    return [el("h2", {}, `Words of the language model nearest to mask ${number}, by the adapter of`), ...rows];
  }
}

function list(words) {
  if (!words) return el("div", { class: "note" }, "The run is not offered this mask; it is offered only the largest ones (train.elisa.top_k).");
  return el("ul", { class: "words" }, words.map(([word, cosine]) => el("li", {}, el("bdi", {}, word), " ", el("span", { class: "count" }, decimals(cosine)))));
}
