// Keys and the live queue. Every page works without this file; it adds no text of its own to a page but numbers the server sent.
"use strict";

const typing = (target) => target.closest("input, textarea, select, [contenteditable]") !== null;
const help = document.getElementById("help");
const rows = () => [...document.querySelectorAll("tr[data-item]")];
let here = -1;

function move(step) {
  const all = rows();
  if (!all.length) return;
  here = Math.min(Math.max(here + step, 0), all.length - 1);
  show(all);
  all[here].querySelector("a").focus();
}

function show(all) {
  all.forEach((row, i) => row.classList.toggle("here", i === here));
}

function open() {
  const row = rows()[here];
  if (row) row.querySelector("a").click();
}

function focus(id) {
  const found = document.getElementById(id);
  if (!found) return;
  const folded = found.closest("details");
  if (folded) folded.open = true;
  found.focus();
  found.scrollIntoView({ block: "nearest" });
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  o: open,
  // A verdict's key goes to its button and Enter gives it: one slip of the finger releases nothing.
  r: () => focus("release"),
  e: () => focus("edit"),
  x: () => focus("refuse"),
  n: () => focus("note"),
  l: () => document.getElementById("lease")?.click(),
  b: () => document.getElementById("back")?.click(),
  "?": () => help?.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && typing(event.target)) {
    event.target.blur();
    return;
  }
  if (event.ctrlKey && event.key === "Enter" && event.target.id === "edit") {
    document.getElementById("send-edit")?.click();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || help?.open) return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-item]");
  if (row && !event.target.closest("a, button, input, label")) row.querySelector("a").click();
  if (event.target.closest("[data-help]")) help?.showModal();
});

for (const form of document.querySelectorAll("form[data-filter]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// The queue looks every few seconds for what came and went; the row one stands on stays under one's fingers.
const live = document.querySelector("[data-live]");
if (live) {
  const told = document.getElementById("told");
  const refresh = async () => {
    if (document.hidden) return;
    let answer;
    try {
      answer = await fetch(live.dataset.live, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
    } catch {
      return; // away for a moment, or signed out: the next click says so
    }
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-rows]");
    if (!fresh || fresh.innerHTML === live.innerHTML) return;
    const stood = rows()[here]?.dataset.item;
    const focused = document.activeElement?.closest("tr[data-item]")?.dataset.item;
    const before = rows().length;
    live.replaceChildren(...fresh.childNodes);
    const all = rows();
    here = all.findIndex((row) => row.dataset.item === stood);
    show(all);
    if (focused) all.find((row) => row.dataset.item === focused)?.querySelector("a").focus();
    if (all.length !== before && told) told.textContent = fresh.dataset.rows;
  };
  setInterval(refresh, Number(live.dataset.every) * 1000);
}

// While the page is in sight the lease is renewed, so that nobody takes the item from under its reader.
const lease = document.querySelector("form[data-renew]");
if (lease) {
  setInterval(() => {
    if (!document.hidden) fetch(lease.action, { method: "POST", body: new FormData(lease), redirect: "manual" }).catch(() => {});
  }, Number(lease.dataset.renew) * 1000);
}
