// What both pages share: requests, messages, colours, the list of keys.

export async function get(path) {
  return checked(await fetch(path));
}

export async function put(path, { body, json, headers = {} } = {}) {
  const content = json === undefined ? body : JSON.stringify(json);
  return checked(await fetch(path, { method: "PUT", body: content, headers: { "X-Bao-Review": "1", ...headers } }));
}

async function checked(response) {
  if (!response.ok) {
    const error = new Error(await response.text());
    error.status = response.status;
    throw error;
  }
  return response.json();
}

const message = document.getElementById("message");

// A line at the foot of the page, with buttons: [[text, what it does], ...].
export function say(text, kind = "problem", choices = []) {
  message.replaceChildren(text, ...choices.map(([name, action]) => element("button", { onclick: action }, name)));
  message.className = kind;
  message.hidden = !text;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// The palette of PASCAL VOC: each three bits of an index are high bits of red, green and blue.
export const palette = Array.from({ length: 256 }, (_, index) => {
  const colour = [0, 0, 0];
  for (let step = 0; step < 8; step++)
    for (let channel = 0; channel < 3; channel++)
      colour[channel] |= ((index >> (3 * step + channel)) & 1) << (7 - step);
  return colour;
});

export function swatch(index) {
  const made = element("i", { "aria-hidden": "true" });
  made.style.background = `rgb(${palette[index].join(" ")})`;
  return made;
}

export function keys(rows) {
  const help = document.getElementById("help");
  const list = element("dl", {}, ...rows.flatMap(([key, text]) => [element("dt", {}, key), element("dd", {}, text)]));
  help.replaceChildren(element("h2", {}, "Keys"), list, element("button", { onclick: () => help.close() }, "Close"));
  document.getElementById("help-button").onclick = () => help.showModal();
}

export function typing(event) {
  return event.target.matches("input, select, textarea") || document.getElementById("help").open;
}

// Keys go to the page again after a slider or a list was used with the mouse.
addEventListener("pointerup", (event) => { if (event.target.matches?.('input[type="range"]')) event.target.blur(); });
addEventListener("change", (event) => { if (event.target.matches?.("select")) event.target.blur(); });
