// The page at /: ask, label, find and look at what the model sees. Nothing is loaded from elsewhere, nothing is kept.
"use strict";
const at = (id) => document.getElementById(id);
const MODES = {
  generate: ["Ask", "Question", "Ask about the picture…"],
  embed: ["Label", "Labels, separated by commas", "cat, dog, a red bus…"],
  ground: ["Find", "What to look for", "the dog on the left…"],
  inspect: ["What it sees", "Text that goes with the pictures", "A question, or nothing…"],
};
let models = [];
let pictures = []; // {url, name} that wait to be sent
let turns = []; // the conversation so far, as the API takes it
let running = null;

// --- small parts ---------------------------------------------------------------------------------------------

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(text) {
  at("status").textContent = text;
}

function scrolled() {
  at("log").scrollTop = at("log").scrollHeight;
}

function turn(kind, ...children) {
  at("welcome")?.remove();
  const element = made("article", { className: `turn ${kind}` }, ...children);
  at("log").append(element);
  scrolled();
  return element;
}

function thumbs(shown) {
  return made("div", { className: "thumbs" }, ...shown.map(({ url, name }) => made("img", { src: url, alt: name })));
}

// --- talking to the server -----------------------------------------------------------------------------------

async function call(path, body, signal) {
  const key = at("key").value.trim();
  const headers = { ...(body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: { code: response.status, message: "no answer" } }));
  if (response.status === 401) at("door").hidden = false;
  throw new Error(`${error.message} (${error.code})`);
}

async function listModels() {
  models = (await (await call("v1/models")).json()).data;
  at("door").hidden = true;
  at("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  chosen();
}

// --- what a model can do -------------------------------------------------------------------------------------

function mode() {
  return at("modes").querySelector(":checked")?.value ?? "inspect";
}

function chosen() {
  const model = models.find(({ id }) => id === at("model").value);
  const can = [...(model?.capabilities ?? []), "inspect"].filter((name) => name in MODES);
  const before = mode();
  at("modes").replaceChildren(...can.map((name, index) => {
    const radio = made("input", { type: "radio", name: "mode", value: name, className: "unseen" });
    radio.checked = can.includes(before) && turns.length === 0 && before !== "inspect" ? name === before : index === 0;
    return made("label", {}, radio, MODES[name][0]);
  }));
  turns = [];
  worded();
}

function worded() {
  const [verb, label, hint] = MODES[mode()];
  at("prompt").textContent = label;
  at("text").placeholder = hint;
  at("send").textContent = mode() === "inspect" ? "Look" : verb;
}

// --- pictures ------------------------------------------------------------------------------------------------

function add(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) {
      say(`${file.name} is not a picture`);
      continue;
    }
    const reader = new FileReader();
    reader.onload = () => {
      pictures.push({ url: reader.result, name: file.name || "pasted picture" });
      showTray();
    };
    reader.readAsDataURL(file);
  }
}

function showTray() {
  at("tray").replaceChildren(...pictures.map((picture) => {
    const remove = made("button", { type: "button", textContent: "×", ariaLabel: `Remove ${picture.name}` });
    remove.addEventListener("click", () => {
      pictures = pictures.filter((other) => other !== picture);
      showTray();
      at("text").focus();
    });
    return made("li", {}, made("img", { src: picture.url, alt: picture.name }), remove);
  }));
  say(pictures.length ? `${pictures.length} picture${pictures.length > 1 ? "s" : ""} to send` : "");
}

// --- the four things to do -----------------------------------------------------------------------------------

function content(sent, text) {
  const parts = sent.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (left + value).split("\n\n");
    left = whole.pop();
    for (const event of whole) {
      const text = event.slice("data: ".length);
      if (text === "[DONE]") return;
      yield JSON.parse(text);
    }
  }
}

async function ask(sent, text, answer, signal) {
  const words = made("div", { className: "text" });
  answer.append(words);
  turns.push({ role: "user", content: content(sent, text) });
  try {
    const body = { model: at("model").value, stream: true, messages: turns };
    for await (const told of events(await call("v1/chat/completions", body, signal))) {
      if (told.error) throw new Error(`${told.error.message} (${told.error.code})`);
      words.append(told.choices[0]?.delta?.content ?? "");
      scrolled();
    }
  } catch (error) {
    if (error.name !== "AbortError") turns.pop(); // it was not answered: the next question must not carry it along
    else turns.push({ role: "assistant", content: words.textContent });
    throw error;
  }
  if (!words.textContent) words.append("(an empty reply)");
  turns.push({ role: "assistant", content: words.textContent });
}

async function label(sent, text, answer, signal) {
  if (!sent.length) throw new Error("Labels need a picture");
  const labels = [...new Set(text.split(",").map((word) => word.trim()).filter(Boolean))];
  const body = { model: at("model").value, input: sent.map(({ url }) => url), labels };
  const { data } = await (await call("v1/classify", body, signal)).json();
  data.forEach((ranked, index) => {
    if (data.length > 1) answer.append(made("h2", { textContent: sent[index].name }));
    answer.append(made("ul", { className: "bars" }, ...ranked.labels.map(({ label: name, probability }) => {
      const fill = made("div", { className: "fill" });
      fill.style.width = `${100 * probability}%`;
      const track = made("div", { className: "track", ariaHidden: "true" }, fill);
      const share = made("span", { className: "share", textContent: `${(100 * probability).toFixed(1)} %` });
      return made("li", {}, made("span", { textContent: name }), track, share);
    })));
  });
  answer.classList.add("wide");
}

function drawn(tag, properties) {
  const element = document.createElementNS(at("pen").namespaceURI, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  return element;
}

function heated(rows) {
  const canvas = made("canvas", { width: rows[0].length, height: rows.length });
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, index) => image.data.set([255, 46, 136, 170 * Math.min(1, Math.max(0, value))], 4 * index));
  pen.putImageData(image, 0, 0);
  return canvas;
}

function marked(found, picture) {
  const [width, height] = found.size;
  const unit = Math.max(width, height) / 100;
  const over = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  found.regions.forEach(({ box, point }, index) => {
    if (box) over.append(drawn("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] }));
    if (point) over.append(drawn("circle", { cx: point[0], cy: point[1], r: 1.6 * unit }));
    const [x, y] = box ? [box[0] + unit, box[1] + 5 * unit] : [point[0] + 2.5 * unit, point[1] - 2 * unit];
    const number = drawn("text", { x, y, "font-size": 5 * unit, "stroke-width": 0.8 * unit });
    number.textContent = String(index + 1);
    over.append(number);
  });
  const places = found.regions.length ? `${found.regions.length} found` : "nothing found";
  const stage = made("div", { className: "stage" }, made("img", { src: picture.url, alt: `${picture.name}, ${places}` }));
  if (found.heat) stage.append(heated(found.heat));
  stage.append(over);
  return stage;
}

async function find(sent, text, answer, signal) {
  if (!sent.length) throw new Error("There is no picture to look in");
  for (const picture of sent) {
    const body = { model: at("model").value, input: picture.url, phrase: text };
    const found = await (await call("v1/ground", body, signal)).json();
    const list = made("ol", { className: "found" }, ...found.regions.map(({ box, point, score, phrase }) => {
      const numbers = (box ?? point).map((number) => Math.round(number)).join(", ");
      return made("li", { textContent: `${phrase}: ${box ? "box" : "point"} ${numbers}, score ${score.toFixed(3)}` });
    }));
    answer.append(marked(found, picture), list);
    if (!found.regions.length) answer.append(made("p", { className: "note", textContent: `Nothing found for “${text}”` }));
  }
}

async function look(sent, text, answer, signal) {
  const messages = [{ role: "user", content: content(sent, text) }];
  const seen = await (await call("v1/inspect", { model: at("model").value, messages }, signal)).json();
  const bytes = Object.entries(seen.memory).map(([use, size]) => `${use} ${(size / 2 ** 20).toFixed(1)} MiB`);
  answer.append(made("h2", { textContent: `${seen.tokens} tokens` }), made("pre", { textContent: seen.prompt, tabIndex: 0 }));
  seen.pictures.forEach((picture, index) => {
    const cut = picture.cropped_share ? `, ${(100 * picture.cropped_share).toFixed(1)} % cut off` : "";
    const told = `${picture.size.join("×")} pixels → ${picture.crops} × ${picture.crop_size.join("×")}, ${picture.tokens} tokens${cut}`;
    const crops = picture.shown.map((url, crop) => made("img", { src: url, alt: `Crop ${crop + 1} of picture ${index + 1}` }));
    answer.append(made("h2", { textContent: `Picture ${index + 1}` }), made("p", { className: "note", textContent: told }));
    answer.append(made("div", { className: "crops" }, ...crops));
  });
  answer.append(made("p", { className: "note", textContent: `Memory: ${bytes.join(", ")}` }));
  answer.classList.add("wide");
}

// --- sending -------------------------------------------------------------------------------------------------

async function send() {
  const kind = mode();
  const text = at("text").value.trim();
  if (running || (!text && (kind !== "inspect" || !pictures.length))) return at("text").focus();
  const sent = pictures;
  pictures = [];
  showTray();
  at("text").value = "";
  turn("mine", ...(sent.length ? [thumbs(sent)] : []), made("div", { className: "text", textContent: text }));
  const answer = turn("theirs");
  answer.ariaBusy = "true";
  running = new AbortController();
  at("send").disabled = true;
  at("stop").hidden = false;
  say("Working…");
  try {
    await { generate: ask, embed: label, ground: find, inspect: look }[kind](sent, text, answer, running.signal);
    say("");
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!stopped) answer.append(made("p", { className: "wrong", textContent: error.message }));
    say(stopped ? "Stopped" : "That went wrong");
  } finally {
    running = null;
    answer.ariaBusy = "false";
    at("send").disabled = false;
    at("stop").hidden = true;
    scrolled();
    at("text").focus();
  }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
at("stop").addEventListener("click", () => running?.abort());
at("fresh").addEventListener("click", () => {
  running?.abort();
  turns = [];
  at("log").replaceChildren();
  say("A new conversation");
  at("text").focus();
});
at("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  listModels().then(() => { say(""); at("text").focus(); }, (error) => say(error.message));
});
at("model").addEventListener("change", chosen);
at("modes").addEventListener("change", worded);
for (const id of ["files", "camera"]) {
  at(id).addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
}
addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
listModels().catch((error) => say(error.message));
