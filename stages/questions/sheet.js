"use strict";
// Decisions on the questions of this page, and those of other pages that were loaded. Nothing is stored but by "Save".

const articles = new Map([...document.querySelectorAll("article")].map(article => [article.dataset.id, article]));
const pickOne = document.body.dataset.pick === "one";
const form = document.body.dataset.form;
const decisions = new Map();
let unsaved = false;

const oneLine = text => text.replace(/\s+/g, " ").replace(/\p{C}/gu, "").trim();  // what is not printable goes
const field = article => article.querySelector("textarea");
const askedOf = article => oneLine(field(article).defaultValue);

function edited(article) {
  const now = oneLine(field(article).value);
  return now && now !== askedOf(article) ? now : null;
}

function set(id, decision) {
  const article = articles.get(id);
  if (decision === null) decisions.delete(id);
  else {
    const question = decision === "keep" ? edited(article) : null;
    decisions.set(id, {decision, asked: askedOf(article), ...(question === null ? {} : {question})});
  }
  show(article);
}

function show(article) {
  const decision = decisions.get(article.dataset.id)?.decision ?? "";
  article.dataset.decision = decision;
  for (const button of article.querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.value === decision && decision !== ""));
}

function count() {
  const done = [...articles.keys()].filter(id => decisions.has(id)).length;
  const others = decisions.size - done;
  document.getElementById("count").textContent =
    `${done} of ${articles.size} decided` + (others ? `, and ${others} of other pages` : "") + (unsaved ? ", not saved" : "");
}

function decide(id, decision) {
  set(id, decision);
  if (pickOne && decision === "keep")
    for (const other of articles.get(id).closest("section").querySelectorAll("article"))
      if (other.dataset.id !== id) set(other.dataset.id, "reject");
  unsaved = true;
  count();
}

function load(text) {
  const given = JSON.parse(text);
  if (given === null || given.form !== form || typeof given.decisions !== "object")
    throw new Error("this file was not saved by a sheet of questions");
  let others = 0;
  for (const [id, {decision, asked, question}] of Object.entries(given.decisions)) {
    if (decision !== "keep" && decision !== "reject") throw new Error("a decision in it is neither keep nor reject");
    const article = articles.get(id);
    if (article && asked !== askedOf(article)) others += 1;  // the question that it was about was made again
    else if (article) {
      field(article).value = question ?? field(article).defaultValue;
      set(id, decision);
    } else decisions.set(id, {decision, asked, ...(question === undefined ? {} : {question})});
  }
  count();
  if (others) document.getElementById("count").textContent += `; ${others} left out, as they are about other questions`;
}

function save() {
  const text = JSON.stringify({form, decisions: Object.fromEntries(decisions)}, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  count();
}

for (const [id, article] of articles) {
  for (const button of article.querySelectorAll("button"))
    button.addEventListener("click", () => decide(id, button.value || null));
  field(article).addEventListener("input", () => {
    if (decisions.get(id)?.decision === "keep") decide(id, "keep");
  });
}
document.getElementById("save").addEventListener("click", save);
document.getElementById("undecided").addEventListener("change", event =>
  document.body.classList.toggle("undecided", event.target.checked));
document.getElementById("load").addEventListener("change", async event => {
  try {
    for (const file of event.target.files) load(await file.text());
  } catch (error) {
    document.getElementById("count").textContent = `not loaded: ${error.message}`;
  }
});
window.addEventListener("beforeunload", event => { if (unsaved) event.preventDefault(); });
count();
