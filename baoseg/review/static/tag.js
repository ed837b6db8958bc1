// Tag: a grid of images, classes by digit keys, several images at a time; a run that starts from here.
import { element, get, keys, put, say, swatch, typing } from "./common.js";

const PAGE = 60;
const work = document.getElementById("work");
let about;
let items = [];
let chosen = new Set();
let last = 0;
let grid, classes, log, runButton;

export async function start(given) {
  about = given;
  keys([
    ["click, Shift, Ctrl", "choose images"], ["1 to 9", "give the chosen images this class, or take it away"],
    ["0", "nothing of these classes is there"], ["Delete", "untag"], ["Ctrl+A", "choose all that are loaded"], ["Escape", "choose none"],
  ]);
  grid = element("div", { id: "grid", onscroll: () => extend(), role: "listbox", "aria-multiselectable": "true", "aria-label": "Images" });
  classes = element("div", { id: "classes" });
  work.className = "tag";
  work.replaceChildren(grid, classes);
  addEventListener("keydown", key);
  addEventListener("resize", extend);
  side();
  await extend();
  poll();
}

function state() {
  document.getElementById("where").textContent = about.folder;
  document.getElementById("progress").textContent = `${about.tagged} of ${about.images} tagged`;
}

function side() {
  state();
  const field = element("input", { id: "new-class", placeholder: "new class", "aria-label": "New class" });
  const add = element("form", { onsubmit: (event) => { event.preventDefault(); if (field.value.trim()) save({ classes: [field.value] }).then(() => document.getElementById("new-class").focus()); } }, field, element("button", { id: "add-class" }, "Add"));
  runButton = element("button", { id: "run", class: "good", onclick: run }, "Train on these labels");
  log = element("pre", { id: "log" });
  classes.replaceChildren(element("h2", {}, "Classes"),
    ...about.classes.map((name, index) => element("button", { "data-class": name, onclick: () => toggle(name) }, swatch(index + 1), name, index < 9 ? element("kbd", {}, `${index + 1}`) : "")),
    element("button", { onclick: () => assign(() => []) }, "nothing here", element("kbd", {}, "0")), add,
    element("h2", {}, "Run"), element("p", {}, "Trains in the background; closing this page does not end it."), runButton, log);
  logged();
}

function logged() {
  log.textContent = about.log.join("\n");
  log.hidden = !about.log.length;
  runButton.disabled = about.running;
}

// Cards as far as the window reaches, and some more.
async function extend() {
  if (grid.loading) return;
  grid.loading = true;
  try {
    while (items.length < about.images && grid.scrollTop + grid.clientHeight > grid.scrollHeight - 600) {
      const added = await get(`api/items?start=${items.length}&count=${PAGE}`);
      items.push(...added);
      grid.append(...added.map(card));
    }
  } catch (error) {
    say(error.message);
  }
  grid.loading = false;
}

function card(one) {
  const image = element("img", { src: `api/items/${one.index}/thumb`, loading: "lazy", alt: "", draggable: "false" });
  const made = element("div", { class: "card", role: "option", tabindex: "0", "data-index": one.index, onclick: (event) => choose(one.index, event) }, image, element("span", {}, one.name), element("small", {}, tags(one)));
  if (about.suggest) made.append(element("button", { class: "suggest", onclick: (event) => { event.stopPropagation(); suggest(one, event.target); } }, "?"));
  return made;
}

function tags(one) {
  return one.tags === null ? "" : one.tags.join(", ") || "nothing here";
}

// The likeliest classes of ImageNet, each a button that gives this label.
async function suggest(one, button) {
  try {
    button.disabled = true;
    const found = await get(`api/items/${one.index}/suggest`);
    button.replaceWith(element("span", { class: "suggested" }, ...found.map((name) =>
      element("button", { onclick: (event) => { event.stopPropagation(); give(one, name); } }, name))));
  } catch (error) {
    button.disabled = false;
    say(error.message);
  }
}

function give(one, name) {
  return save({ classes: about.classes.includes(name) ? [] : [name], tags: { [one.name]: [...new Set([...(one.tags ?? []), name])] } });
}

function choose(index, event) {
  if (event.shiftKey) for (let at = Math.min(last, index); at <= Math.max(last, index); at++) chosen.add(at);
  else if (event.ctrlKey || event.metaKey) chosen.has(index) ? chosen.delete(index) : chosen.add(index);
  else chosen = new Set([index]);
  last = index;
  mark();
}

function mark() {
  for (const one of grid.children) one.setAttribute("aria-selected", chosen.has(+one.dataset.index));
}

function toggle(name) {
  const all = [...chosen].every((index) => items[index].tags?.includes(name));
  return assign((before) => (all ? before.filter((one) => one !== name) : [...new Set([...before, name])]));
}

function assign(change) {
  const given = {};
  for (const index of chosen) given[items[index].name] = change(items[index].tags ?? []);
  return save({ tags: given });
}

async function save(json) {
  try {
    about = await put("api/tags", { json });
    for (const [name, given] of Object.entries(json.tags ?? {})) {
      const one = items.find((known) => known.name === name);
      one.tags = given;
      grid.children[one.index].querySelector("small").textContent = tags(one);
    }
    say("");
    json.classes?.length ? side() : state();
  } catch (error) {
    say(error.message);
  }
}

async function run() {
  try {
    about = await put("api/run");
    say("");
    logged();
    poll();
  } catch (error) {
    say(error.message);
  }
}

async function poll() {
  if (!about.running) return;
  setTimeout(async () => {
    try {
      about = await get("api/about");
      logged();
      if (about.ended) say(`The run has ended. Look at its masks with: bao review ${about.run}`, "note");
      else if (!about.running) say("The run has stopped before its end; see its last lines.");
    } catch { /* the server has ended */ }
    poll();
  }, 2000);
}

function key(event) {
  if (typing(event)) return;
  if ((event.key === " " || event.key === "Enter") && event.target.matches(".card")) {
    event.preventDefault();
    choose(+event.target.dataset.index, event);
  } else if (/^[1-9]$/.test(event.key) && about.classes[+event.key - 1]) toggle(about.classes[+event.key - 1]);
  else if (event.key === "0") assign(() => []);
  else if (event.key === "Delete" || event.key === "Backspace") assign(() => null);
  else if (event.key === "Escape") { chosen.clear(); mark(); }
  else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") { event.preventDefault(); chosen = new Set(items.map((one) => one.index)); mark(); }
}
