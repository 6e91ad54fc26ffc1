"use strict";
// Every reply, searched and filtered in the page. Model output becomes text nodes and nothing else: no innerHTML anywhere.
const HEIGHT = 60;  // pixels of one line of the list, as in page.css
const SLICE = 500;  // prompts that are filtered before the page may draw again
const LETTERS = {
  answered: "A", refused: "R", partial: "P", truncated_in_thought: "T", truncated_in_answer: "C", loop: "L", empty: "E", error: "!",
};
const place = document.querySelector("#rows");
const form = place && place.querySelector("form");
const list = place && place.querySelector("#list");
const detail = place && place.querySelector("#detail");
const prompts = [];
const arrived = new Map();
let arms = [], gold = "", found = [], chosen = -1, newest = 0, loading = null;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Unpacking

window.temperRows = (number, chunk) => arrived.set(number, chunk);

function fetched(number) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: `rows-${number}.js` });
    script.onload = () => resolve(arrived.get(number));
    script.onerror = () => reject(new Error(`rows-${number}.js is missing: it belongs beside this page`));
    document.head.append(script);
  });
}

async function unpack(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function load() {
  const held = [...place.querySelectorAll("script.rows")];
  const chunks = held.length || Number(place.dataset.files);
  for (let i = 0; i < chunks; i++) {
    const chunk = await unpack(held.length ? held[i].textContent : await fetched(i));
    if (held.length) held[i].remove(); else arrived.delete(i);
    ({ arms, gold } = chunk);
    for (const prompt of chunk.prompts) prompts.push(prompt);
    say(`Unpacking: ${prompts.length.toLocaleString("en")} prompts so far`);
    if (i === 0) { offer(); await update(); }
  }
  offer();
  await update();
}

function started() {
  if (loading === null) loading = load().catch((error) => say(`The replies could not be shown: ${error.message}.`));
  return loading;
}

// Filtering

const READ = {
  suite: (p) => [p.suite], class: (p) => [p.class], category: (p) => [p.category], language: (p) => [p.language],
  how: (p) => [p.how ? p.how.join(", ") : "as it is"], outcome: (p) => p.replies.filter(Boolean).map((r) => r.outcome),
  grader: (p) => p.replies.filter(Boolean).flatMap((r) => Object.keys(r.scores || {})),
};

function offer() {
  for (const [name, read] of Object.entries(READ)) {
    const select = form.elements[name], before = select.value || wanted().get(name) || "";
    const values = [...new Set(prompts.flatMap(read))].filter(Boolean).sort();
    const options = values.map((value) => element("option", { value }, value.replaceAll("_", " ")));
    select.replaceChildren(element("option", { value: "" }, name === "grader" ? "none" : "all"), ...options);
    select.value = values.includes(before) ? before : "";
    select.closest("label").hidden = values.length < 2;
  }
}

function pattern(words) {
  return words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
}

function texts(prompt, where) {
  const said = { prompt: [prompt.prompt, prompt.id], answer: [], reasoning: [] };
  for (const message of prompt.asked || []) said.prompt.push(message.content);
  for (const reply of prompt.replies) if (reply) { said.answer.push(reply.answer); said.reasoning.push(reply.reasoning || ""); }
  return where ? said[where] : [...said.prompt, ...said.answer, ...said.reasoning];
}

function test(state) {
  const chosenValues = Object.entries(READ).filter(([name]) => name !== "grader" && state[name]);
  const needle = pattern(state.text), low = state.low === "" ? 0 : Number(state.low), high = state.high === "" ? 1 : Number(state.high);
  const within = (reply) => {
    const value = reply && reply.scores ? reply.scores[state.grader] : undefined;
    return value !== undefined && low <= value && value <= high;
  };
  return (prompt) => chosenValues.every(([name, read]) => read(prompt).includes(state[name]))
    && (!state.apart || new Set(READ.outcome(prompt)).size > 1)
    && (!state.grader || prompt.replies.some(within))
    && (!needle || texts(prompt, state.where).some((words) => words.search(needle) >= 0));
}

async function update() {
  const mine = ++newest, state = Object.fromEntries(new FormData(form)), fits = test(state), kept = [];
  for (let i = 0; i < prompts.length; i += SLICE) {
    for (const prompt of prompts.slice(i, i + SLICE)) if (fits(prompt)) kept.push(prompt);
    if (state.text) await new Promise((done) => setTimeout(done));
    if (mine !== newest) return;
  }
  const before = found[chosen];
  found = kept;
  say(`${found.length.toLocaleString("en")} of ${prompts.length.toLocaleString("en")} prompts.`);
  list.firstElementChild.style.height = `${found.length * HEIGHT}px`;
  choose(Math.max(0, found.indexOf(before)), found.includes(before));
}

function say(words) { place.querySelector("#shown").textContent = words; }

// The list: only lines that are in view exist

function draw() {
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4);
  const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 4);
  const lines = [];
  for (let i = first; i < last; i++) lines.push(line(found[i], i));
  list.firstElementChild.replaceChildren(...lines);
  if (chosen >= 0) list.setAttribute("aria-activedescendant", `option-${chosen}`);
}

function line(prompt, number) {
  const badges = prompt.replies.map((reply, i) => reply && badge(reply.outcome, arms[i]));
  const made = element("div", {
    role: "option", id: `option-${number}`, "aria-selected": String(number === chosen), "aria-setsize": found.length,
    "aria-posinset": number + 1,
  }, element("span", { class: "asked", dir: "auto" }, prompt.prompt.slice(0, 200)),
  element("span", { class: "about" }, element("span", { class: "badges" }, ...badges), ` ${about(prompt)}`));
  made.style.top = `${number * HEIGHT}px`;
  return made;
}

function badge(outcome, arm) {
  const words = `${arm}: ${outcome.replaceAll("_", " ")}`;
  return element("abbr", { class: `badge ${outcome in LETTERS ? outcome : "error"}`, title: words, "aria-label": words },
    LETTERS[outcome] || "?");
}

function about(prompt) {
  const parts = [prompt.class, prompt.category, prompt.suite, prompt.how && prompt.how.join(", ")];
  return parts.concat(prompt.sample ? `sample ${prompt.sample + 1}` : "").filter(Boolean).join(" · ");
}

function choose(number, still) {
  chosen = found.length ? Math.min(Math.max(number, 0), found.length - 1) : -1;
  const top = chosen * HEIGHT;
  if (chosen < 0) list.removeAttribute("aria-activedescendant");
  else if (top < list.scrollTop) list.scrollTop = top;
  else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  draw();
  if (!still || chosen < 0) show();
}

// One prompt with every arm's reply

function show() {
  if (chosen < 0) { detail.replaceChildren(element("p", { class: "note" }, "No prompt fits these filters.")); return; }
  const prompt = found[chosen], needle = pattern(form.elements.text.value);
  const replies = element("div", { class: "replies" }, ...prompt.replies.map((reply, i) => reply && shownReply(reply, arms[i], needle)));
  const veil = prompt.class === "harmful"
    ? element("details", { class: "veil", open: form.elements.unveil.checked ? "" : null },
      element("summary", {}, "Replies to a harmful prompt"), replies)
    : replies;
  detail.replaceChildren(element("div", {},
    element("p", { class: "note" }, `${about(prompt)} · ${prompt.language} · ${prompt.id}`),
    element("h3", { dir: "auto" }, ...marked(prompt.prompt, needle)),
    prompt.target ? element("p", { class: "note" }, `Target: ${prompt.target}`) : null,
    prompt.asked ? sent(prompt.asked, needle) : null, veil));
  detail.scrollTop = 0;
}

function sent(asked, needle) {
  const messages = asked.flatMap(({ role, content }) => [element("p", { class: "note" }, role), said(content, needle)]);
  return element("details", {}, element("summary", {}, "What was really sent"), ...messages);
}

function shownReply(reply, arm, needle) {
  const scores = Object.entries(reply.scores || {}).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  const cost = reply.tokens === undefined ? [] : [`${reply.tokens} tokens`];
  const hacks = reply.flags ? [`hacks: ${reply.flags.join(", ")}`] : [];
  return element("div", { class: "reply" }, element("h4", {}, arm),
    element("p", { class: "note" }, [reply.outcome.replaceAll("_", " "), ...scores, ...cost, ...hacks].join(" · ")),
    reply.why ? element("p", { class: "note" }, `${gold}: ${reply.why}`) : null,
    reply.error ? element("p", { class: "note" }, `error: ${reply.error}`) : null,
    reply.reasoning ? element("details", { open: needle && reply.reasoning.search(needle) >= 0 ? "" : null },
      element("summary", {}, "Reasoning"), said(reply.reasoning, needle, "thought")) : null,
    reply.answer ? said(reply.answer, needle) : element("p", { class: "note" }, "No answer."),
    reply.facts ? element("details", {}, element("summary", {}, "How it came about"),
      said(JSON.stringify(reply.facts, null, 1), null)) : null);
}

function said(words, needle, kind = "") {
  return element("div", { class: `said ${kind}`, dir: "auto", tabindex: 0, role: "group", "aria-label": "text" }, ...marked(words, needle));
}

function marked(words, needle) {
  if (!needle) return [words];
  const parts = [];
  let at = 0;
  for (const hit of words.matchAll(needle)) {
    parts.push(words.slice(at, hit.index), element("mark", {}, hit[0]));
    at = hit.index + hit[0].length;
  }
  return [...parts, words.slice(at)];
}

// Addresses: #rows?suite=harm&text=word&row=harm/id/0 can be sent to a colleague

function wanted() {
  return new URLSearchParams(location.hash.startsWith("#rows?") ? location.hash.slice(6) : "");
}

function remember() {
  const state = [...new FormData(form)].filter(([name, value]) => value && name !== "unveil");
  const prompt = found[chosen];
  if (prompt) state.push(["row", `${prompt.suite}/${prompt.id}/${prompt.sample}`]);
  history.replaceState(null, "", `#rows?${new URLSearchParams(state)}`);
}

async function visit() {
  if (!location.hash.startsWith("#rows")) return;
  const query = wanted();
  place.scrollIntoView();
  await started();
  for (const control of form.elements) {
    if (!control.name || control.name === "unveil") continue;
    if (control.type === "checkbox") control.checked = query.has(control.name); else control.value = query.get(control.name) || "";
  }
  await update();
  const at = found.findIndex((p) => `${p.suite}/${p.id}/${p.sample}` === query.get("row"));
  if (at >= 0) choose(at);
}

const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

if (form) {
  for (const hidden of place.querySelectorAll("[hidden]")) hidden.hidden = false;
  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    const typed = event.target.type === "search" || event.target.type === "number";
    waiting = setTimeout(async () => { await started(); await update(); show(); remember(); }, typed ? 200 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) { choose(Number(option.id.slice(7))); remember(); }
  });
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter") detail.focus();
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    choose(chosen + KEYS[event.key]);
    remember();
  });
  detail.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    form.elements.text.focus();
  });
  new ResizeObserver(draw).observe(list);
  new IntersectionObserver((seen, watcher) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watcher.disconnect();
    started();
  }, { rootMargin: "600px" }).observe(place);
  addEventListener("hashchange", visit);
  visit();
}
