"use strict";
// The chat page. Text from the model and from documents only ever becomes textContent: nothing of it is markup.

const $ = (id) => document.getElementById(id);
const KEY = "tandem-api-key"; // kept until the tab is closed
let turns = []; // {role, content}, what is sent as the conversation; each chat has an array of its own
let running = null; // the AbortController of the answer that is coming

const headers = () => ({ Authorization: `Bearer ${$("key").value.trim()}`, "Content-Type": "application/json" });

function element(tag, text, parent) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function addTurn(role, text) {
  const article = element("article", "", $("talk"));
  article.className = role;
  article.setAttribute("aria-label", role === "user" ? "You" : "Answer");
  const paragraph = element("p", text, article);
  article.scrollIntoView({ block: "end" });
  return { article, paragraph };
}

async function faultOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The endpoint answered with status ${response.status}.`;
  }
}

async function loadModels() {
  const picker = $("model");
  if (!$("key").value.trim()) {
    $("status").textContent = "Enter an API key to begin.";
    return;
  }
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await faultOf(response));
    const models = (await response.json()).data.filter((model) => model.task === "chat");
    const chosen = picker.value;
    picker.replaceChildren();
    for (const model of models) element("option", model.id, picker).value = model.id;
    if (models.some((model) => model.id === chosen)) picker.value = chosen;
    picker.disabled = false;
    $("status").textContent = "";
  } catch (error) {
    picker.replaceChildren();
    picker.disabled = true;
    $("status").textContent = error.message;
  }
}

// The data of server-sent events, one by one, however the network cuts them.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function addCitations(article, citations) {
  if (!citations.length) return;
  const list = element("ol", "", article);
  list.setAttribute("aria-label", "Sources");
  citations.forEach((citation, index) => {
    const button = element("button", `[${index + 1}] ${citation.source}`, element("li", "", list));
    button.type = "button";
    button.addEventListener("click", () => {
      $("source").textContent = citation.source;
      $("text").textContent = citation.text;
      $("passage").showModal();
    });
  });
}

async function ask(question) {
  const talk = turns; // the answer belongs to it, also when another chat has begun before it ends
  talk.push({ role: "user", content: question });
  addTurn("user", question);
  const { article, paragraph } = addTurn("assistant", "");
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  $("status").textContent = "Answering…";
  let text = "";
  let state = "";
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify({ model: $("model").value, messages: talk, stream: true }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await faultOf(response));
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
      paragraph.textContent = text;
      if (event.citations) addCitations(article, event.citations);
      article.scrollIntoView({ block: "end" });
    }
  } catch (error) {
    state = error.name === "AbortError" ? "Stopped." : error.message;
    if (error.name !== "AbortError") article.classList.add("error");
    if (!text) paragraph.textContent = state;
  } finally {
    // A question without an answer isn't part of the conversation: the next one would be refused or misunderstood.
    if (text) talk.push({ role: "assistant", content: text });
    else talk.pop();
    running = null;
    $("send").hidden = false;
    $("stop").hidden = true;
    $("status").textContent = talk === turns ? state : "";
    $("question").focus();
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  if ($("model").disabled) {
    $("status").textContent = "Enter an API key to begin.";
    $("key").focus();
    return;
  }
  $("question").value = "";
  ask(question);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY, $("key").value.trim());
  loadModels();
});
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  $("question").focus();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  turns = [];
  $("talk").replaceChildren();
  $("question").focus();
});
$("close").addEventListener("click", () => $("passage").close());

$("key").value = sessionStorage.getItem(KEY) ?? "";
loadModels();
