"use strict";
// The data's form is described in evaluation/rating.py, form(). Text only ever enters the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("rating");
const byId = (id) => document.getElementById(id);
const KEY = `rating-${data.form}`;
let now = 0;       // number of the item shown
let ratings = {};  // item -> {choice, comment}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- what was chosen ----

// Some browsers forbid storage to pages opened from disk: the form then works all the same, until the page is closed.
function remember() {
  try { localStorage.setItem(KEY, JSON.stringify({ rater: form.elements.rater.value, ratings })); } catch { /* not allowed here */ }
}

function recall() {
  try { take(JSON.parse(localStorage.getItem(KEY))); } catch { /* nothing, or nothing readable, was kept */ }
}

function take(saved) {
  const items = new Set(data.items.map((item) => item.item));
  if (!saved) return;
  form.elements.rater.value = saved.rater || "";
  ratings = Object.fromEntries(Object.entries(saved.ratings).filter(([item]) => items.has(item)));
}

function keep() {
  const chosen = form.querySelector("input[name=choice]:checked");
  const comment = form.elements.comment.value.replace(/\s+/g, " ").trim();
  const item = data.items[now].item;
  if (chosen || comment) ratings[item] = { choice: chosen ? chosen.value : "", comment };
  else delete ratings[item];
  remember();
  progress();
}

const isOpen = (item) => !(ratings[item.item] && ratings[item.item].choice);

function progress() {
  const open = data.items.filter(isOpen).length;
  byId("status").textContent = open ? `${data.items.length - open} of ${data.items.length} rated` : `All ${data.items.length} rated: save the file and hand it back.`;
}

// ---- one item ----

function choicesOf(item) {  // key, value, words
  if (data.scale.length) return data.scale.map((value, i) => [String(i + 1), value, value]);
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const words = { "none of these": "None of these is right", "not stated": "The text does not say" };
  return [...item.options.map((value, i) => [letters[i], value, value]), ...data.fixed.map((value, i) => [letters[item.options.length + i], value, words[value]])];
}

function show(number) {
  now = Math.min(Math.max(number, 0), data.items.length - 1);
  const item = data.items[now], rated = ratings[item.item] || { choice: "", comment: "" };
  byId("item-name").textContent = `Item ${now + 1} of ${data.items.length}${item.field ? `: ${item.field}` : ""}`;
  byId("text").textContent = item.text;
  byId("text").scrollTop = 0;
  byId("question").textContent = item.question || "";
  byId("question").hidden = !item.question;
  form.elements.go.value = now + 1;
  form.elements.comment.value = rated.comment;
  byId("choices").replaceChildren(
    make("legend", {}, data.asks), ...(data.scale.length ? [make("div", { className: "answer" }, item.answer)] : []),
    ...choicesOf(item).map(([key, value, words]) => make("label", {}, make("input", { type: "radio", name: "choice", value, checked: value === rated.choice }), make("kbd", {}, key), words)));
  byId("back").disabled = now === 0;
  byId("forward").textContent = now === data.items.length - 1 ? "Done" : "Next";
  progress();
}

function go(number) {
  keep();
  show(number);
  (form.querySelector("input[name=choice]:checked") || form.querySelector("input[name=choice]")).focus();
}

// ---- files ----

function save(name, kind, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  byId("message").textContent = `Saved as ${name}.`;
}

function fileName(ending) {
  return `ratings_${data.form}_${form.elements.rater.value.replace(/\W+/g, "") || "rater"}.${ending}`;
}

function rows() {
  keep();
  return data.items.map((item) => ({ item: item.item, ...(ratings[item.item] || { choice: "", comment: "" }) }));
}

function saveJson() {
  save(fileName("json"), "application/json", JSON.stringify({ form: data.form, rater: form.elements.rater.value, ratings: rows() }, null, 1));
}

function saveCsv() {
  const cell = (text) => `"${text.replace(/"/g, '""')}"`;
  const lines = [["item", "form", "choice", "comment"], ...rows().map((row) => [row.item, data.form, row.choice, row.comment])];
  save(fileName("csv"), "text/csv", `\ufeff${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`);
}

async function load(file) {
  try {
    const saved = JSON.parse(await file.text());
    if (saved.form !== data.form) throw new Error("another form");
    take({ rater: saved.rater, ratings: Object.fromEntries(saved.ratings.map((row) => [row.item, { choice: row.choice, comment: row.comment || "" }])) });
    show(now);
    remember();
    byId("message").textContent = "Loaded.";
  } catch {
    byId("message").textContent = "This file was not saved by this form. Choose the JSON file that it saved.";
  }
}

// ---- start ----

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement.tagName === "INPUT" && document.activeElement.type !== "radio") form.querySelector("input[name=choice]").focus();  // Enter after the initials
  else go(now + 1);
});
form.addEventListener("change", (event) => {
  if (event.target.name === "go") go(Number(event.target.value) - 1);
  else if (event.target.id !== "load") keep();
});
// Keys count only inside the choices, so that they never get in the way of typing or of a screen reader.
byId("choices").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const place = choicesOf(data.items[now]).findIndex(([key]) => key === event.key.toUpperCase());
  if (place >= 0) {
    const radio = form.querySelectorAll("input[name=choice]")[place];
    radio.checked = true;
    radio.focus();
    keep();
  } else if (event.key === "Enter") {
    event.preventDefault();
    go(now + (event.shiftKey ? -1 : 1));
  }
});
byId("back").addEventListener("click", () => go(now - 1));
byId("open").addEventListener("click", () => {
  keep();
  const open = [...data.items.keys()].map((i) => (now + 1 + i) % data.items.length).find((i) => isOpen(data.items[i]));
  if (open !== undefined) go(open);
});
byId("clear").addEventListener("click", () => {
  for (const radio of form.querySelectorAll("input[name=choice]")) radio.checked = false;
  keep();
});
byId("json").addEventListener("click", saveJson);
byId("csv").addEventListener("click", saveCsv);
byId("load").addEventListener("change", (event) => { if (event.target.files.length) load(event.target.files[0]); event.target.value = ""; });
form.elements.go.max = data.items.length;
recall();
show(Math.max(0, data.items.findIndex(isOpen)));
