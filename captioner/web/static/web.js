/* The page: it sends a photo with the settings of the form, and shows the caption with attention.js. The sources of photos
 * are in photo.js, the downloads in download.js and picture.js. */

import { save, toHtml, toJson } from "./download.js";
import { displayUrl, watch } from "./photo.js";
import { toPng } from "./picture.js";

const WORD = 380; // milliseconds per word
const SETTLE = 250; // milliseconds after the last change of a setting
const TRIES = 5; // requests, while the queue is full
const HINTS = {
  greedy: "Takes the most probable word at each step.",
  beam: "Keeps the most probable partial sentences at each step, and returns the best complete one.",
  sample: "Draws each word at random. The same seed gives the same caption.",
};

const element = (id) => document.getElementById(id);
const settings = element("settings");

let limits = { max_bytes: Infinity };
let current = null; // {name, bytes, url}: the photo
let captions = null; // the answer's captions, best first
let shown = 0; // which of them
let view = null; // what attention.js shows of it
let request = new AbortController();

/** An error with a message for people; again says whether a retry may succeed. */
class Failure extends Error {
  constructor(text, again = false) {
    super(text);
    this.again = again;
  }
}

function mood(name) {
  document.body.classList.toggle("busy", name === "busy");
  document.body.classList.toggle("done", name === "done" || (name === "busy" && captions !== null));
  element("preview").hidden = name !== "busy" || captions !== null;
}

function complain(text, again = false) {
  element("message").hidden = !text;
  element("message").firstElementChild.textContent = text && text[0].toUpperCase() + text.slice(1);
  element("retry").hidden = !again;
  element("progress").textContent = "";
}

function decoding() {
  const form = new FormData(settings);
  const captionCount = form.get("num_captions");
  const given = {
    greedy: { method: "beam", beam_size: 1, num_captions: 1 },
    beam: { method: "beam", beam_size: form.get("beam_size"), num_captions: captionCount },
    sample: {
      method: "sample", temperature: form.get("temperature"), top_p: form.get("top_p"), seed: form.get("seed"),
      num_captions: captionCount,
    },
  }[form.get("method")];
  return new URLSearchParams({ ...given, alternatives: 4 });
}

function showSettings() {
  const method = settings.elements.method.value;
  for (const field of settings.querySelectorAll("[data-for]")) {
    const used = field.dataset.for.split(" ").includes(method);
    field.hidden = !used;
    for (const control of field.querySelectorAll("input, select")) control.disabled = !used;
  }
  for (const output of settings.querySelectorAll("output")) {
    output.textContent = Number(settings.elements[output.htmlFor.value].value).toFixed(output.htmlFor.value === "top_p" ? 2 : 1);
  }
  element("method-hint").textContent = HINTS[method];
}

/** The server's response; retries while its queue is full. */
async function ask(photo, signal) {
  for (let trial = 1; ; trial++) {
    const response = await send(photo, signal);
    const answer = await response.json().catch(() => null);
    signal.throwIfAborted();
    if (response.ok && answer) return answer;
    const text = answer?.error?.message ?? `The server answered with status ${response.status}.`;
    if (response.status !== 503 || trial === TRIES) throw new Failure(text, response.status >= 500);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    element("progress").textContent = `Many photos are waiting; trying again in ${seconds} s …`;
    await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
    signal.throwIfAborted();
  }
}

async function send(photo, signal) {
  try {
    return await fetch(`/api/caption?${decoding()}`, {
      method: "POST", body: photo, headers: { "Content-Type": "application/octet-stream" }, signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is captioner web still running?", true);
  }
}

async function caption() {
  if (!current) return;
  request.abort();
  request = new AbortController();
  const { signal } = request;
  complain("");
  mood("busy");
  element("progress").textContent = "Captioning …";
  try {
    const { other_captions: others = [], ...best } = await ask(current.bytes, signal);
    captions = [best, ...others];
    list();
    choose(0, WORD);
    element("progress").textContent = "";
    mood("done");
  } catch (error) {
    if (error.name === "AbortError") return;
    forget();
    complain(error instanceof Failure ? error.message : `The page failed: ${error.message}.`, error.again);
  }
}

function forget() {
  captions = null;
  view?.destroy();
  view = null;
  element("result").hidden = true;
  mood("");
}

/** The list of captions; a single one needs no list. */
function list() {
  element("captions").hidden = element("ranking").hidden = captions.length < 2;
  element("captions").replaceChildren(...captions.map((each, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: each.caption || "(no words)" });
    const score = Object.assign(document.createElement("span"), {
      textContent: `log p ${each.log_probability.toFixed(2).replace("-", "\u2212")}`, title: "log-probability of the caption",
    });
    button.append(score);
    button.addEventListener("click", () => choose(i, 0));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

function choose(index, reveal) {
  shown = index;
  element("captions").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", i === index));
  element("result").hidden = false;
  view = window.captionerPage.show(element("shown"), captions[index], current.url, { reveal });
  const address = `${location.origin}/api/caption?${decoding()}`;
  element("curl").textContent = `curl --data-binary @photo.jpg '${address}'`;
}

async function take(file) {
  request.abort();
  const mine = new AbortController(); // until another photo comes
  request = mine;
  forget();
  complain("");
  if (current) URL.revokeObjectURL(current.url);
  current = null;
  const problem = !file.size ? "The file is empty. Pick another photo."
    : file.size > limits.max_bytes
      ? `The photo has more than ${limits.max_bytes / 1e6} MB, the limit of this server. Save a smaller version.`
      : "";
  if (problem) {
    complain(problem);
    return;
  }
  let photo;
  try {
    photo = { name: file.name, bytes: await file.arrayBuffer(), url: await displayUrl(file) };
  } catch {
    if (request === mine) complain("The file could not be read. Pick it again.");
    return;
  }
  if (request !== mine) {
    URL.revokeObjectURL(photo.url);
    return;
  }
  current = photo;
  element("preview").src = current.url;
  await caption();
}

function downloads() {
  const stem = () => current.name.replace(/\.[^.]*$/, "") || "photo";
  const offer = (id, ending, make) => element(id).addEventListener("click", async () => {
    try {
      save(await make(), `${stem()}.caption.${ending}`);
    } catch (error) {
      complain(`The download failed (${error.message}).`);
    }
  });
  const everything = () => ({ ...captions[0], ...(captions.length > 1 && { other_captions: captions.slice(1) }) });
  offer("save-json", "json", () => toJson(everything()));
  offer("save-html", "html", () => toHtml(captions[shown], current.url));
  offer("save-png", "png", () => toPng(captions[shown], current.url));
}

async function introduce() {
  try {
    const info = await (await fetch("/api/info")).json();
    ({ limits } = info);
    if (info.decoding.method === "beam") settings.elements.beam_size.value = info.decoding.beam_size;
    element("model").textContent = `captioner ${info.version}, model ${info.model.replace(/(SHA-256 .{12}).*/, "$1…")}`;
    element("limits").textContent = "Photos are captioned on the computer that serves this page, and are not stored. "
      + `Up to ${limits.max_bytes / 1e6} MB and ${limits.max_pixels / 1e6} megapixels.`;
  } catch {
    complain("The server does not answer. Is captioner web still running?");
  }
}

function start() {
  let timer = 0;
  settings.addEventListener("submit", (event) => event.preventDefault());
  settings.addEventListener("input", () => {
    showSettings();
    clearTimeout(timer);
    if (settings.checkValidity()) timer = setTimeout(caption, SETTLE);
  });
  settings.addEventListener("change", () => settings.reportValidity());
  element("again").addEventListener("click", () => {
    settings.elements.seed.value = Math.floor(Math.random() * 100_000);
    settings.dispatchEvent(new Event("input"));
  });
  element("retry").addEventListener("click", caption);
  watch(take, complain);
  downloads();
  showSettings();
  introduce();
}

start();
