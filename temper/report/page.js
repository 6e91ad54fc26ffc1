"use strict";
const form = document.querySelector("form.filter");
const items = [...document.querySelectorAll("article")];
const shown = document.querySelector("#shown");

function matches(item, wanted) {
  return (!wanted.kind || item.dataset.kind === wanted.kind)
    && (!wanted.category || item.dataset.category === wanted.category)
    && (!wanted.outcome || item.dataset.outcomes.split(" ").includes(wanted.outcome))
    && (!wanted.text || item.textContent.toLowerCase().includes(wanted.text.toLowerCase()));
}

function update() {
  const wanted = Object.fromEntries(new FormData(form));
  for (const item of items) item.hidden = !matches(item, wanted);
  shown.textContent = `${items.filter((item) => !item.hidden).length} of ${items.length} prompts shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("#unveil").addEventListener("change", (event) => {
    for (const veil of document.querySelectorAll("details.veil")) veil.open = event.target.checked;
  });
  update();
}
