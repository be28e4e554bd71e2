// The page at /: a question about pictures, answered as a stream, or labels with bars. Nothing is loaded from elsewhere.
"use strict";
const at = (id) => document.getElementById(id);
const pictures = [];
let running = null;

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function refused(response) {
  const { error } = await response.json();
  return new Error(`${error.code}: ${error.message}`);
}

async function listModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw await refused(response);
  const { data } = await response.json();
  at("model").replaceChildren(...data.map((model) => {
    const option = new Option(model.id, model.id);
    option.dataset.writes = model.capabilities.includes("generate") ? "1" : "";
    return option;
  }));
  chosen();
}

function writes() {
  return at("model").selectedOptions[0]?.dataset.writes === "1";
}

function chosen() {
  at("prompt").textContent = writes() ? "Question" : "Labels, separated by commas";
  at("send").textContent = writes() ? "Ask" : "Classify";
}

function add(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    const reader = new FileReader();
    reader.onload = () => {
      pictures.push(reader.result);
      const shown = new Image();
      shown.src = reader.result;
      shown.alt = file.name || "pasted picture";
      at("shown").append(shown);
    };
    reader.readAsDataURL(file);
  }
}

async function ask(signal) {
  const parts = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  const content = [...parts, { type: "text", text: at("question").value }];
  const body = { model: at("model").value, stream: true, messages: [{ role: "user", content }] };
  const response = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw await refused(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (left + value).split("\n\n");
    left = events.pop();
    for (const event of events) {
      const text = event.slice("data: ".length);
      if (text === "[DONE]") return;
      const told = JSON.parse(text);
      if (told.error) throw new Error(`${told.error.code}: ${told.error.message}`);
      at("answer").append(told.choices[0]?.delta?.content ?? "");
    }
  }
}

async function classify(signal) {
  const labels = [...new Set(at("question").value.split(",").map((label) => label.trim()).filter(Boolean))];
  const body = { model: at("model").value, input: pictures, labels };
  const response = await fetch("v1/classify", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw await refused(response);
  for (const picture of (await response.json()).data) {
    for (const { label, probability } of picture.labels) {
      const line = document.createElement("div");
      line.textContent = `${label} ${(100 * probability).toFixed(1)} %`;
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.style.width = `${100 * probability}%`;
      at("answer").append(line, bar);
    }
  }
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  running = new AbortController();
  at("answer").replaceChildren();
  at("send").disabled = true;
  at("stop").disabled = false;
  try {
    await (writes() ? ask : classify)(running.signal);
  } catch (error) {
    if (error.name !== "AbortError") at("answer").append(error.message);
  } finally {
    at("send").disabled = false;
    at("stop").disabled = true;
  }
});
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => { pictures.length = 0; at("shown").replaceChildren(); });
at("model").addEventListener("change", chosen);
at("files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
at("key").addEventListener("change", () => listModels().catch((error) => at("answer").replaceChildren(error.message)));
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
listModels().catch((error) => at("answer").replaceChildren(error.message));
