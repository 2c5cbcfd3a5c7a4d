"use strict";
// The data's form is described in report/browser.py, collect(). Text only ever enters the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 100;
const [TASK, FIELD, RING, CANCER, LINE, QUESTION, CONTEXT, GOLD, ANSWERS] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const [SYSTEM, TEXT, RIGHT, SURE, KIND, SEVERITY, EVIDENCE] = [0, 1, 2, 3, 4, 5, 6];
const RESULTS = {
  any: "right or wrong", right: "right", wrong: "wrong", none: "every system is wrong", differ: "the systems differ",
};
const byId = (id) => document.getElementById(id);
const form = byId("filters");
const searched = data.items.map((item) => [
  data.strings[item[QUESTION]], data.strings[item[GOLD]], ...item[ANSWERS].map((answer) => data.strings[answer[TEXT]]), data.contexts[item[CONTEXT]] || "",
].join("\n").toLowerCase());
let found = [];   // numbers of the items that pass the filters
let first = 0;    // place in `found` of the first row shown
let chosen = -1;  // number of the item shown in detail

// An element with properties and children, each a node or a text.
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const answerOf = (item, system) => item[ANSWERS].find((answer) => answer[SYSTEM] === system);
const severityWords = (severity) => (severity === 1 ? "1 (worst)" : String(severity));

// ---- filters ----

function fillSelect(name, names, all) {
  const options = names.map((text, i) => make("option", { value: String(i) }, text));
  if (name !== "system") options.sort((a, b) => a.text.localeCompare(b.text));
  if (name === "task" || name === "ring") options.sort((a, b) => a.value - b.value);
  form.elements[name].replaceChildren(...(all ? [make("option", { value: "" }, all)] : []), ...options);
}

function fillFilters() {
  fillSelect("task", data.tasks, "all tasks");
  fillSelect("field", data.fields, "everything");
  fillSelect("cancer", data.cancers, "all cancers");
  fillSelect("ring", data.rings, "all patients");
  fillSelect("system", data.systems, "");
  form.elements.system.options[data.start].defaultSelected = true;
  form.elements.result.replaceChildren(...Object.entries(RESULTS).map(([value, text]) => make("option", { value }, text)));
  const severities = [...new Set(data.items.flatMap((item) => item[ANSWERS].map((answer) => answer[SEVERITY])))].filter(Boolean).sort();
  byId("severities").hidden = !severities.length;
  form.elements.severity.replaceChildren(
    make("option", { value: "" }, "with or without"), make("option", { value: "any" }, "any severity"),
    ...severities.map((severity) => make("option", { value: String(severity) }, `severity ${severityWords(severity)}`)));
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {  // a link may bring filters along, as in #field=stage&severity=1
    const option = [...(form.elements[name]?.options || [])].find((one) => one.value === value || one.text === value);
    if (option) option.selected = true;
    else if (name === "search") form.elements.search.value = value;
  }
}

function passes(item, i, wanted) {
  if (wanted.task !== "" && item[TASK] !== Number(wanted.task)) return false;
  if (wanted.field !== "" && item[FIELD] !== Number(wanted.field)) return false;
  if (wanted.cancer !== "" && item[CANCER] !== Number(wanted.cancer)) return false;
  if (wanted.ring !== "" && item[RING] !== Number(wanted.ring)) return false;
  const answer = answerOf(item, Number(wanted.system));
  if (wanted.result === "right" && !(answer && answer[RIGHT])) return false;
  if (wanted.result === "wrong" && !(answer && !answer[RIGHT])) return false;
  if (wanted.result === "none" && item[ANSWERS].some((other) => other[RIGHT])) return false;
  if (wanted.result === "differ" && item[ANSWERS].every((other) => other[TEXT] === item[ANSWERS][0][TEXT])) return false;
  if (wanted.severity === "any" && !(answer && answer[SEVERITY])) return false;
  if (wanted.severity > 0 && !(answer && answer[SEVERITY] === Number(wanted.severity))) return false;
  return wanted.words.every((word) => searched[i].includes(word));
}

function filter() {
  const wanted = Object.fromEntries(new FormData(form));
  wanted.words = wanted.search.toLowerCase().split(/\s+/).filter(Boolean);
  found = data.items.map((item, i) => i).filter((i) => passes(data.items[i], i, wanted));
  first = 0;
  const answers = found.map((i) => answerOf(data.items[i], Number(wanted.system))).filter(Boolean);
  const right = answers.filter((answer) => answer[RIGHT]).length;
  byId("status").textContent = `${found.length.toLocaleString("en")} of ${data.items.length.toLocaleString("en")} questions. `
    + `${data.systems[wanted.system]}: ${right.toLocaleString("en")} of ${answers.length.toLocaleString("en")} answers right.`;
  byId("of-system").textContent = `answer of ${data.systems[wanted.system]}`;
  showRows();
}

// ---- list ----

function showRows() {
  const system = Number(form.elements.system.value);
  byId("rows").replaceChildren(...found.slice(first, first + PAGE).map((i) => rowOf(i, system)));
  byId("page").textContent = found.length ? `${first + 1} to ${Math.min(first + PAGE, found.length)} of ${found.length}` : "no question passes the filters";
  byId("previous").disabled = first === 0;
  byId("next").disabled = first + PAGE >= found.length;
}

function rowOf(i, system) {
  const item = data.items[i], answer = answerOf(item, system);
  const button = make("button", { type: "button" }, `${i + 1}: ${data.fields[item[FIELD]]}`);
  button.dataset.item = i;
  const row = make("tr", { className: i === chosen ? "chosen" : "" }, make("th", { scope: "row" }, button), make("td", {}, data.strings[item[GOLD]]),
    make("td", {}, answer ? data.strings[answer[TEXT]] || "(empty)" : "(not asked)"), make("td", { className: "judged" }, ...(answer ? [verdict(answer)] : [])));
  return row;
}

function verdict(answer) {
  return make("span", { className: answer[RIGHT] ? "right" : "wrong" }, answer[RIGHT] ? "right" : answer[SEVERITY] ? `wrong, severity ${severityWords(answer[SEVERITY])}` : "wrong");
}

function turn(by) {
  first = Math.max(0, first + by);
  showRows();
  document.querySelector(".list").scrollTop = 0;
  document.querySelector("#rows button").focus();
}

// ---- detail ----

function show(i, focus) {
  chosen = i;
  const item = data.items[i];
  for (const row of byId("rows").rows) row.classList.toggle("chosen", Number(row.querySelector("button").dataset.item) === i);
  const hasText = item[CONTEXT] >= 0;
  const text = hasText ? make("div", { className: "text", id: "text", tabIndex: 0 }, data.contexts[item[CONTEXT]]) : null;
  if (text) { text.setAttribute("role", "region"); text.setAttribute("aria-label", "Text that the question is about"); }
  const back = make("button", { type: "button", className: "back" }, "Back to the list");
  back.addEventListener("click", () => (byId("rows").querySelector(".chosen button") || byId("rows").querySelector("button") || form.elements.search).focus());
  byId("detail").replaceChildren(
    make("h2", { id: "detail-name" }, `Question ${i + 1}: ${data.fields[item[FIELD]]}`),
    make("p", { className: "quiet" }, `${data.tasks[item[TASK]]}, ${data.cancers[item[CANCER]]}, ${data.rings[item[RING]]}, line ${item[LINE]} of its data set.`),
    back, make("h3", {}, "Question"), make("p", {}, data.strings[item[QUESTION]]),
    ...(text ? [make("h3", {}, "Text that the model was given"), text] : []),
    make("h3", {}, "Answers"), answerTable(item));
  if (focus) byId("detail").focus();
}

function answerTable(item) {
  const gold = data.strings[item[GOLD]];
  const with_ = (column) => item[ANSWERS].some((answer) => answer[column] !== null);
  const names = ["system", "answer", "verdict", ...(with_(SURE) ? ["confidence"] : []), ...(with_(EVIDENCE) ? ["evidence"] : [])];
  const rows = item[ANSWERS].map((answer) => make("tr", {}, make("th", { scope: "row" }, data.systems[answer[SYSTEM]]),
    make("td", {}, ...compared(gold, data.strings[answer[TEXT]], answer[RIGHT])),
    make("td", {}, verdict(answer), answer[KIND] >= 0 ? make("div", { className: "quiet" }, data.kinds[answer[KIND]]) : ""),
    ...(with_(SURE) ? [make("td", { className: "number" }, answer[SURE] === null ? "" : `${answer[SURE]} %`)] : []),
    ...(with_(EVIDENCE) ? [make("td", {}, ...(answer[EVIDENCE] ? evidence(item, answer[EVIDENCE]) : []))] : [])));
  const label = make("tr", {}, make("th", { scope: "row" }, "label (gold)"), make("td", {}, gold), ...names.slice(2).map(() => make("td", {})));
  const caption = make("caption", {}, "Words that the label does not have are underlined; words of the label that are missing are struck through."
    + (with_(EVIDENCE) ? " A quote opens in the text; it stands in the note word for word unless it says otherwise." : ""));
  const table = make("table", {}, caption, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, label, ...rows));
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Answers side by side");
  return scroll;
}

// The answer's words against the label's by their longest common sequence; a right answer in other words stays as it is.
function compared(gold, answer, right) {
  if (right || !answer.trim()) return [answer.trim() ? answer : "(empty)"];
  const a = gold.split(/\s+/).filter(Boolean), b = answer.split(/\s+/).filter(Boolean);
  if (a.length * b.length > 250000) return [answer];
  const same = (i, j) => a[i].toLowerCase() === b[j].toLowerCase();
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) length[i][j] = same(i, j) ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  }
  if (!length[0][0]) return [make("mark", { className: "differs" }, answer)];  // nothing in common: the label stands above, once is enough
  const parts = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && same(i, j)) { parts.push(b[j]); i++; j++; }
    else if (j < b.length && (i === a.length || length[i][j + 1] >= length[i + 1][j])) parts.push(make("mark", { className: "differs" }, b[j++]));
    else parts.push(make("del", {}, a[i++]));
    parts.push(" ");
  }
  return parts;
}

// ---- evidence ----

function evidence(item, found) {
  const state = make("div", { className: found.v ? "quiet" : "wrong" }, found.v ? "found in the note" : found.q ? "not found in the note" : "no quote found in the note");
  if (!found.q) return [state];
  if (!found.c && !found.n) return [make("div", {}, `“${found.q}”`), state];
  const button = make("button", { type: "button", className: "quote" }, make("span", {}, `“${found.q}”`));
  button.title = `Show in the text: ${found.q}`;
  button.addEventListener("click", () => showQuote(item, found));
  return found.v ? [button] : [button, state];
}

function showQuote(item, found) {
  const [whole, [start, end]] = found.c ? [data.contexts[item[CONTEXT]], found.c] : [found.n, found.p];
  const mark = make("mark", { tabIndex: -1 }, whole.slice(start, end));
  const box = byId("text");
  box.replaceChildren(...(found.c ? [] : [make("div", { className: "quiet" }, "Not in the text that the model was given. From the note:")]), whole.slice(0, start), mark, whole.slice(end));
  mark.scrollIntoView({ block: "center" });
  mark.focus();
}

// ---- start ----

if (data.items.length) {
  fillFilters();
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));  // once the fields hold their first values again
  byId("previous").addEventListener("click", () => turn(-PAGE));
  byId("next").addEventListener("click", () => turn(PAGE));
  byId("rows").addEventListener("click", (event) => show(Number(event.target.closest("tr").querySelector("button").dataset.item), true));
  byId("rows").addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const row = step && event.target.closest("tr")[step];
    if (!row) return;
    event.preventDefault();
    row.querySelector("button").focus();
    show(Number(row.querySelector("button").dataset.item), false);
  });
  filter();
  if (found.length) show(found[0], false);
}
