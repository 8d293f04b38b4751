"use strict";
// Everything from the data becomes text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 15;
const LONG = 300;
const byId = (id) => document.getElementById(id);
const make = (tag, className, ...inside) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...inside.filter((part) => part !== null && part !== undefined));
  return node;
};
const ANY = "";
const mean = (numbers) => numbers.reduce((sum, each) => sum + each, 0) / (numbers.length || 1);

// Which arms a filter looks at: the chosen one, or all.
const looked = () => (byId("arm").value === ANY ? data.arms : [byId("arm").value]);
const answersOf = (item, arms) => arms.map((arm) => item.arms[arm]);
const rightCount = (item) => answersOf(item, data.arms).filter((answer) => answer.right).length;
const hasF1 = data.items.some((item) => answersOf(item, data.arms).some((answer) => answer.f1 !== null));
const score = (answer) => (answer.f1 === null ? Number(answer.right) : answer.f1);

const outcomes = [
  ["every outcome", () => true],
  ["right", (item, arms) => answersOf(item, arms).some((answer) => answer.right)],
  ["wrong", (item, arms) => answersOf(item, arms).some((answer) => !answer.right)],
];
if (data.arms.length > 1) {
  outcomes.push(["the arms disagree", (item) => rightCount(item) > 0 && rightCount(item) < data.arms.length]);
  outcomes.push(["no arm is right", (item) => rightCount(item) === 0]);
  outcomes.push(["only one arm is right", (item, arms) => rightCount(item) === 1 && answersOf(item, arms).some((answer) => answer.right)]);
}
if (!data.columns.includes("gold document retrieved") && data.items.some((item) => item.recall !== null)) {
  outcomes.push(["gold document retrieved", (item) => item.recall === 1]);
  outcomes.push(["gold document not retrieved", (item) => item.recall === 0]);
}
for (const label of Object.keys(data.labels)) {
  if (data.items.some((item) => answersOf(item, data.arms).some((answer) => answer.wrong === label)))
    outcomes.push(["wrong: " + label, (item, arms) => answersOf(item, arms).some((answer) => answer.wrong === label)]);
}
outcomes.forEach(([label], index) => byId("outcome").append(new Option(label, index)));

// Each gives a number; the smaller comes first. What is equal keeps the file's order.
const latency = (item, arms) => Math.max(...answersOf(item, arms).map((answer) => answer.ms ?? -1));
const sorts = [
  ["file order", () => 0],
  ["most disagreement", (item) => -Math.min(rightCount(item), data.arms.length - rightCount(item))],
  ["fewest arms right", (item) => rightCount(item)],
  [hasF1 ? "lowest F1" : "wrong first", (item, arms) => mean(answersOf(item, arms).map(score))],
  [hasF1 ? "highest F1" : "right first", (item, arms) => -mean(answersOf(item, arms).map(score))],
  ["slowest", (item, arms) => -latency(item, arms)],
  ["longest answer", (item, arms) => -Math.max(...answersOf(item, arms).map((answer) => answer.words))],
];
sorts.forEach(([label], index) => byId("sort").append(new Option(label, index)));

byId("arm").append(new Option("any arm", ANY));
for (const arm of data.arms) byId("arm").append(new Option(arm, arm));

const selects = data.columns.map((column) => {
  const select = make("select");
  select.append(new Option("every value", ANY));
  for (const value of [...new Set(data.items.map((item) => item.slices[column]))].sort()) select.append(new Option(value, "=" + value));
  byId("filter").insertBefore(make("label", "", column, select), byId("reset"));
  return [column, select];
});

// A passage is looked through once, however many questions it was shown for.
const passageTexts = data.passages.map((passage) => passage.join("\n").toLowerCase());
const ownTexts = data.items.map((item) =>
  [item.id, item.question, item.source, ...item.answers, ...answersOf(item, data.arms).map((answer) => answer.text)].join("\n").toLowerCase());
function having(word) {
  const passages = new Set();
  passageTexts.forEach((text, index) => text.includes(word) && passages.add(index));
  return (item, index) => ownTexts[index].includes(word) || Object.values(item.contexts).some((found) => found.some(([number]) => passages.has(number)));
}

// Where one of the right answers stands in a text it is marked.
function marked(text, answers) {
  const wanted = answers.filter((answer) => answer.trim() !== "").map((answer) => answer.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
  if (wanted.length === 0) return [text];
  return text.split(new RegExp("(?<![\\p{L}\\p{N}])(" + wanted.join("|") + ")(?![\\p{L}\\p{N}])", "iu")).map((part, index) => (index % 2 ? make("mark", "", part) : part));
}

function passage(number, [index, rank], item, shown) {
  const [source, section, text] = data.passages[index];
  const labels = data.found === "neighbours"; // then a passage's source is its label
  const gold = labels ? item.answers.includes(source) : item.source !== null && source === item.source;
  const node = make("div", "passage" + (gold ? " gold" : "") + (shown || labels ? "" : " unseen"));
  const where = [source, section].filter(Boolean).join(" › ");
  node.append(make("b", "", "[" + number + "] " + where + " · score " + rank.toFixed(3) + (gold ? (labels ? " · the right label" : " · the gold document") : "") + (shown || labels ? "" : " · left out of the prompt")));
  node.append(...(labels ? [text] : marked(text, item.answers)));
  return node;
}

function answerRow(arm, answer, item) {
  const said = answer.failure !== null ? ["failed: " + answer.failure] : answer.text === "" ? ["(nothing)"] : marked(answer.text, item.answers);
  if (answer.cut) said.push(" …");
  const chip = make("span", answer.right ? "chip right" : "chip", answer.right ? "✓ right" : "✗ " + answer.wrong);
  chip.title = answer.right ? "" : data.labels[answer.wrong];
  const figures = [answer.f1 === null ? null : "F1 " + answer.f1.toFixed(2), answer.ms === null ? null : answer.ms.toLocaleString("en") + " ms"];
  const head = make("th", "", arm);
  head.scope = "row";
  return make("tr", "", head, make("td", "said", ...said), make("td", "label", chip), make("td", "figures", figures.filter(Boolean).join(" · ")));
}

function card(item) {
  const long = item.question.length > LONG;
  const node = make("article", "item", make("h3", "", long ? item.question.slice(0, LONG) + " …" : item.question));
  node.append(make("p", "meta", [item.id, item.source && "gold document " + item.source, ...Object.entries(item.slices).map(([key, value]) => key + ": " + value)].filter(Boolean).join(" · ")));
  node.append(make("p", "wanted", "Right: ", make("b", "", item.answers.join("  or  "))));
  node.append(make("table", "answers", make("caption", "hidden", "Answers"), make("tbody", "", ...data.arms.map((arm) => answerRow(arm, item.arms[arm], item)))));
  if (long) node.append(make("details", "", make("summary", "", "all of it"), make("div", "passage", item.question)));
  for (const [kind, found] of Object.entries(item.contexts)) {
    const details = make("details", "", make("summary", "", found.length + (kind === "gold" ? " passages of the gold document" : " retrieved " + data.found)));
    const showing = data.arms.filter((arm) => item.arms[arm].failure === null && (kind === "gold") === (arm === "oracle")).map((arm) => item.arms[arm].shown);
    found.forEach((one, index) => details.append(passage(index + 1, one, item, index < Math.max(...showing))));
    node.append(details);
  }
  return node;
}

let matching = [];
let drawn = 0;
function more() {
  for (const index of matching.slice(drawn, drawn + PAGE)) byId("items").append(card(data.items[index]));
  drawn = Math.min(matching.length, drawn + PAGE);
  byId("more").hidden = drawn >= matching.length;
}
function apply() {
  const arms = looked();
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean).map(having);
  const [, outcome] = outcomes[Number(byId("outcome").value)];
  const [, order] = sorts[Number(byId("sort").value)];
  matching = data.items.map((_, index) => index).filter((index) => {
    const item = data.items[index];
    return outcome(item, arms) && selects.every(([column, select]) => select.value === ANY || select.value === "=" + item.slices[column]) && words.every((has) => has(item, index));
  });
  const keys = new Map(matching.map((index) => [index, order(data.items[index], arms)]));
  matching.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
  byId("items").replaceChildren();
  byId("count").textContent = matching.length.toLocaleString("en") + " of " + data.items.length.toLocaleString("en");
  drawn = 0;
  more();
}
byId("filter").addEventListener("input", apply);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("reset", () => setTimeout(apply));
byId("more").addEventListener("click", () => {
  const first = drawn;
  more();
  // Whoever came by keyboard goes on with what is new.
  const next = byId("items").children[first];
  next.tabIndex = -1;
  next.focus({ preventScroll: true });
});
apply();
