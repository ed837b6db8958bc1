// Review: images in order of doubt; masks to accept, reject or correct. Strokes stay here; a finished mask travels.
import { element, get, keys, palette, put, say, swatch, typing } from "./common.js";

const PAGE = 100; // images that the list asks for at a time
const BEFORE = 5; // images that the list has before the first that is left to do
const UNDO = 50;
const IGNORE = 255;
const work = document.getElementById("work");

let about;
let items = []; // of the list so far, which begins with the image at the place `begin`
let begin = 0;
let item = null; // the image at hand, as the server describes it
let tile = 0;
let width = 0;
let height = 0;
let mask = new Uint8Array(0); // class of each pixel of the tile
let picture = null;
let layer = null;
let regions = null;
let overlay = document.createElement("canvas");
let dirty = false;
let past = [];
let future = [];
let polygon = [];
let stroke = null; // { before, last } while a button is held
let shown = { scale: 1, x: 0, y: 0 };
let choice = { tool: "brush", label: 1, size: 16, opacity: 0.5, layer: -1 };
let saving = Promise.resolve();

let view, list, title, tools, classes, range, tilesBar, tileMap, more;

export async function start(given) {
  about = given;
  build();
  keys([
    ["a", "accept the mask, or save the corrected one"], ["r", "reject: nothing learns from this image"],
    ["Space, ←, →", "next, previous, next image"], ["0 to 9", "class to draw: 0 is the background, i ignores"],
    ["b, e, f, p, g", "brush, eraser, fill, polygon (double click closes it), region"],
    ["[ and ]", "smaller, larger brush"], ["Ctrl+Z, Ctrl+Y", "undo, redo"], ["h", "hide or show the mask"],
    ["wheel, + and -", "zoom"], ["right button, or Alt and left", "move the image"], ["0 with Alt", "the whole image"],
  ]);
  addEventListener("keydown", key);
  addEventListener("resize", () => { fit(); });
  addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });
  begin = Math.max(0, about.first - BEFORE);
  await reload();
  if (items.length) await open(items[about.first - begin].index);
  poll();
}

function build() {
  list = element("ol", { id: "list", onscroll: scrolled, "aria-label": "Images" });
  more = element("button", { id: "again", hidden: true, onclick: sort }, "Sort again");
  title = element("h1", {}, "");
  view = element("canvas", { id: "view", tabindex: "0", "aria-label": "Image and mask" });
  tools = element("div", { class: "tools", role: "group", "aria-label": "Tools" });
  for (const [name, text] of [["brush", "Brush"], ["erase", "Eraser"], ["fill", "Fill"], ["polygon", "Polygon"], ["region", "Region"]])
    tools.append(element("button", { "data-tool": name, onclick: () => pick(name) }, text));
  range = element("input", { type: "range", min: 1, max: 200, value: choice.size, "aria-label": "Size of the brush", oninput: (event) => { choice.size = +event.target.value; draw(); } });
  const opacity = element("input", { id: "opacity", type: "range", min: 0, max: 1, step: 0.05, value: choice.opacity, "aria-label": "Opacity of the mask", oninput: (event) => { choice.opacity = +event.target.value; draw(); } });
  const layers = element("select", { id: "layer", "aria-label": "Map under the mask", onchange: (event) => showLayer(+event.target.value) },
    element("option", { value: -1 }, "image"), ...about.layers.map((name, index) => element("option", { value: index }, `map: ${name}`)));
  tilesBar = element("span", { class: "tiles" });
  tileMap = element("div", { id: "tile-map", hidden: true });
  classes = element("div", { id: "classes", role: "group", "aria-label": "Class to draw" });
  const decide = element("div", { class: "decide" },
    element("button", { id: "accept", class: "good", onclick: () => decideOn("accepted") }, "Accept"),
    element("button", { id: "reject", class: "bad", onclick: () => decideOn("rejected") }, "Reject"),
    element("button", { id: "next", onclick: () => step(1) }, "Next"));
  const bar = element("div", { class: "bar" }, tools, element("label", {}, "size ", range), element("label", {}, "mask ", opacity), layers,
    element("span", { class: "history" }, element("button", { id: "undo", onclick: undo }, "Undo"), element("button", { id: "redo", onclick: redo }, "Redo")), tilesBar);
  work.className = "review";
  work.replaceChildren(element("nav", {}, more, list, tileMap), element("section", {}, element("div", { class: "bar" }, title, element("span", { class: "space" }), decide), bar, view), classes);
  view.addEventListener("pointerdown", down);
  view.addEventListener("pointermove", move);
  view.addEventListener("pointerup", up);
  view.addEventListener("pointercancel", up);
  view.addEventListener("dblclick", () => closePolygon());
  view.addEventListener("contextmenu", (event) => event.preventDefault());
  view.addEventListener("wheel", wheel, { passive: false });
  state();
}

// --------------------------------------------------------------------------------------- the list

async function reload() {
  items = await get(`api/items?start=${begin}&count=${PAGE}`);
  list.replaceChildren(...items.map(row));
  current();
  state();
}

async function sort() {
  more.hidden = true;
  await get("api/items?start=0&count=1&sorted=1");
  about = await get("api/about");
  begin = Math.max(0, about.first - BEFORE);
  await reload();
  if (items.length) await leave(() => open(items[about.first - begin].index));
}

async function scrolled() {
  if (list.scrollTop + list.clientHeight > list.scrollHeight - 400) await extend();
  if (list.scrollTop < 100) await precede();
}

async function extend() {
  if (list.loading || begin + items.length >= about.images) return;
  list.loading = true;
  const added = await get(`api/items?start=${begin + items.length}&count=${PAGE}`);
  items.push(...added);
  list.append(...added.map(row));
  list.loading = false;
}

async function precede() {
  if (list.loading || !begin) return;
  list.loading = true;
  const count = Math.min(PAGE, begin);
  const added = await get(`api/items?start=${begin - count}&count=${count}`);
  begin -= count;
  items.unshift(...added);
  const below = list.scrollHeight - list.scrollTop;
  list.prepend(...added.map(row));
  list.scrollTop = list.scrollHeight - below;
  list.loading = false;
}

function row(one) {
  const button = element("button", { "data-index": one.index, onclick: () => leave(() => open(one.index)) }, element("span", {}, one.name), element("small", {}, text(one)));
  if (one.decision) button.dataset.decision = one.decision;
  return element("li", {}, button);
}

function text(one) {
  return one.decision || (one.doubt === null ? "" : `doubt ${one.doubt.toFixed(2)}`);
}

function state() {
  const { counts, images, rated, chosen, split } = about;
  document.getElementById("where").textContent = `${about.run}, ${split}`;
  const done = counts.accepted + counts.corrected + counts.rejected;
  const order = chosen === "random" ? "a random sample" : rated < images ? `in order of doubt: ${rated} of ${images} rated` : "in order of doubt";
  document.getElementById("progress").textContent = `${done} of ${images} reviewed (${counts.corrected} corrected, ${counts.rejected} rejected), ${order}`;
}

async function poll() {
  if (about.chosen === "random" || about.rated >= about.images) return;
  setTimeout(async () => {
    try {
      about = await get("api/about");
      more.hidden = false;
      state();
    } catch { /* the server has ended; what is clicked next says so */ }
    poll();
  }, 2000);
}

// --------------------------------------------------------------------------------------- an image

async function open(index, part = 0) {
  const another = item?.index !== index;
  try {
    item = await get(`api/items/${index}`);
    tile = part;
    const load = (kind, query = "") => bitmap(`api/items/${index}/${kind}?tile=${tile}&v=${item.version}${query}`);
    const [image, drawn] = await Promise.all([load("image"), load("mask")]);
    picture = image;
    width = image.width;
    height = image.height;
    mask = channel(drawn);
    regions = null;
    layer = null;
    past = [];
    future = [];
    polygon = [];
    dirty = false;
    overlay.width = width;
    overlay.height = height;
    paint(0, 0, width, height);
    if (choice.layer >= 0) await showLayer(choice.layer);
    say("");
  } catch (error) {
    say(error.message);
    return;
  }
  title.textContent = item.name;
  current();
  buildClasses(another);
  buildTiles();
  buttons();
  fit();
}

function current() {
  for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", +button.dataset.index === item?.index);
  list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

async function bitmap(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(await response.text());
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

function pixels(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height).data;
}

function channel(image) {
  const data = pixels(image);
  const values = new Uint8Array(image.width * image.height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return values;
}

async function showLayer(number) {
  choice.layer = number;
  layer = number < 0 ? null : await bitmap(`api/items/${item.index}/layer?tile=${tile}&layer=${number}`);
  draw();
}

function buildClasses(another) {
  const names = ["background", ...about.classes];
  const own = new Set(item.labels);
  const order = names.map((name, index) => ({ name, index })).sort((one, other) => (other.index === 0 || own.has(other.name)) - (one.index === 0 || own.has(one.name)));
  choice.shown = order.map(({ index }) => index);
  if (another && !choice.shown.slice(0, 1 + own.size).includes(choice.label)) choice.label = choice.shown[1] ?? 0;
  classes.replaceChildren(element("h2", {}, "Class"), ...order.map(({ name, index }, place) =>
    element("button", { "data-label": index, class: own.has(name) || index === 0 ? "own" : "", onclick: () => pickLabel(index) },
      swatch(index), name, place < 10 ? element("kbd", {}, `${place}`) : "")),
    element("button", { "data-label": IGNORE, onclick: () => pickLabel(IGNORE) }, swatch(IGNORE), "ignore", element("kbd", {}, "i")));
}

// Of a large image a small one, on which a click chooses the tile.
function buildTiles() {
  tilesBar.replaceChildren();
  tileMap.hidden = item.tiles < 2;
  if (item.tiles < 2) return;
  const go = (part) => leave(() => open(item.index, part));
  tilesBar.append(
    element("button", { id: "tile-before", disabled: tile === 0, onclick: () => go(tile - 1), "aria-label": "Tile before" }, "‹"),
    ` tile ${tile + 1} of ${item.tiles} `,
    element("button", { id: "tile-after", disabled: tile === item.tiles - 1, onclick: () => go(tile + 1), "aria-label": "Tile after" }, "›"));
  const grid = element("div", {}, ...Array.from({ length: item.tiles }, (_, part) =>
    element("button", { "aria-label": `Tile ${part + 1}`, "aria-pressed": `${part === tile}`, onclick: () => go(part) })));
  const [high, wide] = item.size;
  const sizes = (side) => Array.from({ length: Math.ceil(side / about.tile) }, (_, at) => `${Math.min(about.tile, side - at * about.tile)}fr`);
  grid.style.gridTemplateColumns = sizes(wide).join(" ");
  grid.style.gridTemplateRows = sizes(high).join(" ");
  tileMap.replaceChildren(element("h2", {}, "Tiles"), element("div", { class: "map" }, element("img", { src: `api/items/${item.index}/overview`, alt: "" }), grid));
}

function buttons() {
  for (const button of tools.children) button.setAttribute("aria-pressed", button.dataset.tool === choice.tool);
  for (const button of classes.querySelectorAll("button")) button.setAttribute("aria-pressed", +button.dataset.label === choice.label);
  document.getElementById("undo").disabled = !past.length;
  document.getElementById("redo").disabled = !future.length;
  document.getElementById("accept").textContent = dirty ? "Save" : "Accept";
}

function pick(tool) {
  choice.tool = tool;
  polygon = [];
  buttons();
  draw();
}

function pickLabel(label) {
  choice.label = label;
  if (choice.tool === "erase") choice.tool = "brush";
  buttons();
}

// --------------------------------------------------------------------------------------- drawing

function fit() {
  const box = view.getBoundingClientRect();
  view.width = Math.max(1, box.width * devicePixelRatio);
  view.height = Math.max(1, box.height * devicePixelRatio);
  shown.scale = Math.min(view.width / width, view.height / height) * 0.98;
  shown.x = (view.width - width * shown.scale) / 2;
  shown.y = (view.height - height * shown.scale) / 2;
  draw();
}

let due = false;

function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; render(); });
}

function render() {
  const context = view.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  if (!picture) return;
  context.setTransform(shown.scale, 0, 0, shown.scale, shown.x, shown.y);
  context.imageSmoothingEnabled = shown.scale < 2;
  context.drawImage(layer ?? picture, 0, 0);
  context.globalAlpha = choice.opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(overlay, 0, 0);
  context.globalAlpha = 1;
  context.lineWidth = 2 / shown.scale;
  context.strokeStyle = "#fff";
  if (polygon.length) {
    context.beginPath();
    polygon.forEach(([x, y], number) => (number ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }
  if (choice.at && (choice.tool === "brush" || choice.tool === "erase")) {
    context.beginPath();
    context.arc(...choice.at, choice.size / 2, 0, 7);
    context.stroke();
  }
}

// The overlay of a part of the mask: its colours, and nothing over the background.
function paint(left, top, right, bottom) {
  left = Math.max(0, left); top = Math.max(0, top);
  right = Math.min(width, right); bottom = Math.min(height, bottom);
  if (right <= left || bottom <= top) return;
  const part = new ImageData(right - left, bottom - top);
  for (let y = top, to = 0; y < bottom; y++)
    for (let x = left; x < right; x++, to += 4) {
      const label = mask[y * width + x];
      const [red, green, blue] = palette[label];
      part.data[to] = red; part.data[to + 1] = green; part.data[to + 2] = blue;
      part.data[to + 3] = label ? 255 : 0;
    }
  overlay.getContext("2d").putImageData(part, left, top);
  draw();
}

function place(event) {
  const box = view.getBoundingClientRect();
  const x = (event.clientX - box.left) * (view.width / box.width);
  const y = (event.clientY - box.top) * (view.height / box.height);
  return [(x - shown.x) / shown.scale, (y - shown.y) / shown.scale];
}

function down(event) {
  if (!item) return;
  view.setPointerCapture(event.pointerId);
  if (event.button === 2 || event.button === 1 || event.altKey) {
    stroke = { pan: [event.clientX, event.clientY] };
    return;
  }
  const at = place(event);
  const inside = at[0] >= 0 && at[1] >= 0 && at[0] < width && at[1] < height;
  if (choice.tool === "polygon") polygon.push(at);
  else if (choice.tool === "fill" && inside) change(() => fill(at));
  else if (choice.tool === "region" && inside) region(at);
  else if (choice.tool === "brush" || choice.tool === "erase") {
    stroke = { before: mask.slice(), last: at };
    line(at, at);
  }
  draw();
}

function move(event) {
  choice.at = place(event);
  if (stroke?.pan) {
    const ratio = view.width / view.getBoundingClientRect().width;
    shown.x += (event.clientX - stroke.pan[0]) * ratio;
    shown.y += (event.clientY - stroke.pan[1]) * ratio;
    stroke.pan = [event.clientX, event.clientY];
  } else if (stroke) {
    line(stroke.last, choice.at);
    stroke.last = choice.at;
  }
  draw();
}

function up() {
  if (stroke?.before) keep(stroke.before);
  stroke = null;
}

function line([x0, y0], [x1, y1]) {
  const label = choice.tool === "erase" ? 0 : choice.label;
  const radius = choice.size / 2;
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(0.5, radius / 2)));
  for (let step = 0; step <= steps; step++) disc(x0 + ((x1 - x0) * step) / steps, y0 + ((y1 - y0) * step) / steps, radius, label);
  paint(Math.floor(Math.min(x0, x1) - radius - 1), Math.floor(Math.min(y0, y1) - radius - 1), Math.ceil(Math.max(x0, x1) + radius + 1), Math.ceil(Math.max(y0, y1) + radius + 1));
}

// All pixels whose centre is within the radius; at least the pixel under the point.
function disc(x, y, radius, label) {
  for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, Math.ceil(y + radius)); row++)
    for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, Math.ceil(x + radius)); column++) {
      const under = Math.floor(x) === column && Math.floor(y) === row;
      if (under || Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) mask[row * width + column] = label;
    }
}

function fill([x, y]) {
  const from = Math.floor(y) * width + Math.floor(x);
  const before = mask[from];
  if (before === choice.label) return;
  const waiting = [from];
  mask[from] = choice.label;
  while (waiting.length) {
    const at = waiting.pop();
    const column = at % width;
    for (const next of [column ? at - 1 : -1, column < width - 1 ? at + 1 : -1, at - width, at + width])
      if (next >= 0 && next < mask.length && mask[next] === before) {
        mask[next] = choice.label;
        waiting.push(next);
      }
  }
}

async function region([x, y]) {
  try {
    if (!regions) {
      say("Finding regions ...", "note");
      const data = pixels(await bitmap(`api/items/${item.index}/regions?tile=${tile}`));
      regions = new Uint32Array(width * height);
      for (let i = 0; i < regions.length; i++) regions[i] = data[4 * i] | (data[4 * i + 1] << 8) | (data[4 * i + 2] << 16);
      say("");
    }
  } catch (error) {
    say(error.message);
    return;
  }
  const number = regions[Math.floor(y) * width + Math.floor(x)];
  change(() => { for (let i = 0; i < mask.length; i++) if (regions[i] === number) mask[i] = choice.label; });
}

function closePolygon() {
  if (polygon.length < 3) { polygon = []; return draw(); }
  const points = polygon;
  polygon = [];
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.beginPath();
  points.forEach(([x, y], number) => (number ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.fill();
  const { data } = context.getImageData(0, 0, width, height);
  change(() => { for (let i = 0; i < mask.length; i++) if (data[4 * i + 3] > 127) mask[i] = choice.label; });
}

// --------------------------------------------------------------------------------------- undo, redo

function change(action) {
  const before = mask.slice();
  action();
  keep(before);
}

// The rectangle in which the mask has changed, as it was and as it is.
function keep(before) {
  let left = width, top = height, right = 0, bottom = 0;
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at++)
      if (before[at] !== mask[at]) {
        left = Math.min(left, x); right = Math.max(right, x + 1);
        top = Math.min(top, y); bottom = Math.max(bottom, y + 1);
      }
  if (right <= left) return;
  past.push({ left, top, right, bottom, before: cut(before, left, top, right, bottom), after: cut(mask, left, top, right, bottom) });
  if (past.length > UNDO) past.shift();
  future = [];
  dirty = true;
  paint(left, top, right, bottom);
  buttons();
}

function cut(values, left, top, right, bottom) {
  const part = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) part.set(values.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  return part;
}

function paste(step, part) {
  const { left, top, right, bottom } = step;
  for (let y = top; y < bottom; y++) mask.set(part.subarray((y - top) * (right - left), (y - top + 1) * (right - left)), y * width + left);
  dirty = true;
  paint(left, top, right, bottom);
  buttons();
}

function undo() {
  const step = past.pop();
  if (!step) return;
  future.push(step);
  paste(step, step.before);
}

function redo() {
  const step = future.pop();
  if (!step) return;
  past.push(step);
  paste(step, step.after);
}

// --------------------------------------------------------------------------------------- decisions

function decideOn(decision) {
  saving = saving.then(() => send(decision, { onwards: true }));
  return saving;
}

async function send(decision, { onwards }) {
  if (!item) return false;
  try {
    const corrected = dirty && decision !== "rejected";
    const body = corrected ? await encoded() : undefined;
    const kind = corrected ? "corrected" : decision;
    const answer = await put(`api/items/${item.index}?decision=${kind}&tile=${tile}`, { body, headers: { "If-Match": `"${item.version}"` } });
    dirty = false;
    item.version = answer.version;
    item.decision = answer.decision;
    const known = items.find((one) => one.index === item.index);
    if (known) Object.assign(known, { version: answer.version, decision: answer.decision });
    const button = list.querySelector(`[data-index="${item.index}"]`);
    if (button) { button.dataset.decision = answer.decision; button.lastChild.textContent = answer.decision; }
    about = await get("api/about");
    state();
    say("");
    if (onwards) await step(1);
    else buttons();
    return true;
  } catch (error) {
    const again = () => { dirty = false; return open(item.index, tile); };
    say(error.message, "problem", error.status === 409 ? [["Load it again", again]] : []);
    return false;
  }
}

function encoded() {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < mask.length; i++) { image.data[4 * i] = mask[i]; image.data[4 * i + 3] = 255; }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// What was drawn is saved before another image or tile is opened.
async function leave(onwards) {
  if (dirty && !(await send("corrected", { onwards: false }))) return;
  await onwards();
}

async function step(by) {
  const at = items.findIndex((one) => one.index === item.index);
  if (at + by >= items.length - 10) await extend();
  if (at + by < 0) await precede();
  const next = items[items.findIndex((one) => one.index === item.index) + by];
  if (next) await leave(() => open(next.index));
  else { say(by > 0 ? "That was the last image." : "That was the first image.", "note"); buttons(); }
}

function wheel(event) {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event);
}

function zoom(factor, event) {
  const box = view.getBoundingClientRect();
  const x = ((event?.clientX ?? box.left + box.width / 2) - box.left) * (view.width / box.width);
  const y = ((event?.clientY ?? box.top + box.height / 2) - box.top) * (view.height / box.height);
  const scale = Math.min(40, Math.max(0.02, shown.scale * factor));
  shown.x = x - ((x - shown.x) * scale) / shown.scale;
  shown.y = y - ((y - shown.y) * scale) / shown.scale;
  shown.scale = scale;
  draw();
}

function key(event) {
  if (typing(event) || !item) return;
  const pressed = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (pressed === "z") { event.preventDefault(); (event.shiftKey ? redo : undo)(); }
    if (pressed === "y") { event.preventDefault(); redo(); }
    return;
  }
  if (event.altKey) { if (pressed === "0") fit(); return; }
  const tool = { b: "brush", e: "erase", f: "fill", p: "polygon", g: "region" }[pressed];
  const actions = {
    a: () => decideOn("accepted"), r: () => decideOn("rejected"), " ": () => step(1), arrowright: () => step(1), arrowleft: () => step(-1),
    "[": () => resize(0.8), "]": () => resize(1.25), "+": () => zoom(1.25), "-": () => zoom(0.8), i: () => pickLabel(IGNORE),
    enter: () => closePolygon(), escape: () => { polygon = []; draw(); }, h: hide,
  };
  if (event.repeat && (pressed === "a" || pressed === "r")) return; // a key held down would decide on images unseen
  if (tool) pick(tool);
  else if (/^[0-9]$/.test(pressed) && choice.shown[+pressed] !== undefined) pickLabel(choice.shown[+pressed]);
  else if (actions[pressed]) { event.preventDefault(); actions[pressed](); }
}

function resize(factor) {
  choice.size = Math.min(200, Math.max(1, Math.round(choice.size * factor) + (factor > 1 ? 1 : 0)));
  range.value = choice.size;
  draw();
}

function hide() {
  choice.opacity = choice.opacity ? 0 : 0.5;
  document.getElementById("opacity").value = choice.opacity;
  draw();
}
