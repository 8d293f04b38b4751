"use strict";
// Everything from the data becomes text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 15;
const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
};
const right = (item, arm) => item.arms[arm].em === 1;

const outcomes = [["every outcome", () => true]];
if (data.arms.length > 1) outcomes.push(["the arms disagree", (item) => new Set(data.arms.map((arm) => item.arms[arm].em)).size > 1]);
outcomes.push(["no arm right", (item) => !data.arms.some((arm) => right(item, arm))]);
for (const arm of data.arms) {
  outcomes.push([arm + " right", (item) => right(item, arm)]);
  outcomes.push([arm + " wrong", (item) => !right(item, arm)]);
}
outcomes.push(["gold document retrieved", (item) => item.recall === 1]);
outcomes.push(["gold document not retrieved", (item) => item.recall === 0]);
outcomes.push(["failed in some arm", (item) => data.arms.some((arm) => item.arms[arm].failure !== null)]);
outcomes.forEach(([label], index) => byId("outcome").append(new Option(label, index)));

const selects = data.columns.map((column) => {
  const select = make("select");
  select.setAttribute("aria-label", column);
  select.append(new Option("every " + column, ""));
  for (const value of [...new Set(data.items.map((item) => item.slices[column]))].sort()) select.append(new Option(value, "=" + value));
  byId("filter").append(select);
  return [column, select];
});

const searchable = data.items.map((item) =>
  [item.id, item.question, item.source, ...item.answers, ...data.arms.map((arm) => item.arms[arm].text),
   ...Object.values(item.contexts).flat().map((passage) => passage.source + " " + passage.text)].join("\n").toLowerCase());

function passage(number, found, item, shown) {
  const gold = item.source !== null && found.source === item.source;
  const node = make("div", gold ? "passage gold" : "passage");
  const where = [found.source, found.section].filter(Boolean).join(" › ");
  node.append(make("b", "", "[" + number + "] " + where + " · score " + found.score.toFixed(3) + (gold ? " · the gold document" : "") + (shown ? "" : " · left out of the prompt")));
  node.append(document.createTextNode(found.text));
  return node;
}

function card(item) {
  const node = make("article", "item");
  node.append(make("h3", "", item.question));
  node.append(make("p", "meta", [item.id, item.source && "gold document " + item.source, ...Object.entries(item.slices).map(([key, value]) => key + ": " + value)].filter(Boolean).join(" · ")));
  const wanted = make("p", "wanted", "Right answer: ");
  wanted.append(make("b", "", item.answers.join("  or  ")));
  node.append(wanted);
  const table = make("div", "answers");
  for (const arm of data.arms) {
    const answer = item.arms[arm];
    const good = answer.em === 1;
    table.append(make("span", good ? "mark good" : "mark bad", good ? "✓" : "✗"), make("span", "arm", arm));
    table.append(answer.failure === null ? make("span", "said", answer.text === "" ? "(empty)" : answer.text + (answer.cut ? " …" : "")) : make("span", "said bad", "failed: " + answer.failure));
    table.append(make("span", "quiet", "F1 " + answer.f1.toFixed(2) + (answer.ms === null ? "" : " · " + answer.ms + " ms")));
  }
  node.append(table);
  for (const [kind, found] of Object.entries(item.contexts)) {
    const details = make("details");
    details.append(make("summary", "", found.length + (kind === "gold" ? " passages of the gold document" : " retrieved passages")));
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
  const words = byId("search").value.toLowerCase().trim();
  const [, outcome] = outcomes[Number(byId("outcome").value)];
  matching = data.items.map((_, index) => index).filter((index) => {
    const item = data.items[index];
    return outcome(item) && searchable[index].includes(words) && selects.every(([column, select]) => select.value === "" || select.value === "=" + item.slices[column]);
  });
  byId("items").replaceChildren();
  byId("count").textContent = matching.length + " of " + data.items.length + " questions";
  drawn = 0;
  more();
}
byId("filter").addEventListener("input", apply);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", more);
apply();
