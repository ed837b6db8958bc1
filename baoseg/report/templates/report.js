// The gallery: pages through images, paints layers, and shows what a threshold would have made of the class maps.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.images.length) return;
  const find = (id) => document.getElementById(id);
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  // A threshold of null: each method at the one it starts with, its own for each image or the fixed one.
  const state = { image: 0, layer: "overlay", class: null, threshold: null };
  const fixed = [...new Set(data.methods.map((method) => method.fixed).filter((value) => value !== null))];
  const TINT = 0.55;  // share of the colour in an overlay

  // --- reading -------------------------------------------------------------------------------------------------

  async function pixels(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const canvas = Object.assign(make("canvas"), { width: image.width, height: image.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.width, image.height);
  }

  async function grey(uri) {
    if (!uri) return null;
    const { data: rgba, width, height } = await pixels(uri);
    return { values: Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]), width, height };
  }

  // Bilinear, corners not aligned: the same formula that makes masks from maps.
  function upsample(map, width, height) {
    const axis = (from, to) => Array.from({ length: to }, (_, i) => {
      const at = Math.max(0, ((i + 0.5) * from) / to - 0.5);
      const low = Math.min(Math.floor(at), from - 1);
      return [low, Math.min(low + 1, from - 1), at - low];
    });
    const columns = axis(map.width, width);
    const result = new Float32Array(width * height);
    let i = 0;
    for (const [top, bottom, down] of axis(map.height, height)) {
      for (const [left, right, across] of columns) {
        const value = (y, x) => map.values[y * map.width + x];
        const above = value(top, left) * (1 - across) + value(top, right) * across;
        const below = value(bottom, left) * (1 - across) + value(bottom, right) * across;
        result[i++] = (above * (1 - down) + below * down) / 255;
      }
    }
    return result;
  }

  async function readMethod(method, width, height) {
    const full = async (uri) => (uri ? upsample(await grey(uri), width, height) : null);
    const maps = await Promise.all(method.maps.map(full));
    const best = new Float32Array(width * height);
    const winner = new Uint8Array(width * height);
    maps.forEach((map, k) => map.forEach((value, i) => {
      if (k === 0 || value > best[i]) { best[i] = value; winner[i] = method.classes[k]; }
    }));
    const mask = await grey(method.mask);
    const background = await full(method.background);
    const known = method.classes !== null;  // masks that were refined or predicted have no maps
    return { known, classes: method.classes ?? [], maps, background, threshold: method.threshold, mask: mask?.values, best, winner };
  }

  async function read(index) {
    const { width, height, image, truth, methods } = data.images[index];
    return {
      width, height,
      image: (await pixels(image)).data,
      truth: (await grey(truth))?.values,
      methods: await Promise.all(methods.map((method) => readMethod(method, width, height))),
    };
  }

  const cache = new Map();  // images as promises; only a few, decoded maps are large
  function decoded(index) {
    if (!cache.has(index)) cache.set(index, read(index));
    if (cache.size > 5) cache.delete(cache.keys().next().value);
    return cache.get(index);
  }

  // --- painting ------------------------------------------------------------------------------------------------

  function paint(canvas, { width, height, image }, colour) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const out = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const [rgb, share] = colour(i);
      for (let c = 0; c < 3; c++) out.data[4 * i + c] = image[4 * i + c] * (1 - share) + rgb[c] * share;
      out.data[4 * i + 3] = 255;
    }
    context.putImageData(out, 0, 0);
  }

  const plain = () => [data.palette[0], 0];
  const heat = (map) => (i) => [data.heat[Math.round(255 * map[i])], 0.72];
  // A mask over the image, its borders in white: some colours of the palette are as dull as any photograph.
  function labels(mask, { width }) {
    if (state.layer === "mask") return (i) => [data.palette[mask[i]], 1];
    const border = (i, j) => j < mask.length && mask[i] !== mask[j];
    return (i) => (border(i, i + width) || ((i + 1) % width && border(i, i + 1))
      ? [[255, 255, 255], 0.9] : [data.palette[mask[i]], mask[i] === 0 ? 0 : TINT]);
  }

  function right(mask, truth) {
    if (!mask || !truth) return "";
    let known = 0, same = 0;
    truth.forEach((value, i) => { if (value !== data.ignore) { known++; same += value === mask[i]; } });
    return known ? `${((100 * same) / known).toFixed(1)} % right` : "";
  }

  function layerOf(method, shown) {
    const { truth } = shown;
    const decided = method.background ? "no threshold" : method.threshold !== null ? "own threshold" : "mask";
    switch (state.layer) {
      case "image": return ["image", plain];
      case "truth": return ["ground truth", truth ? labels(truth, shown) : plain];
      case "background": return method.background
        ? ["background map", heat(method.background)]
        : [method.known ? "learns no background map" : "a mask without maps", plain];
      case "class": {
        const k = method.classes.indexOf(state.class);
        return k < 0 ? [method.known ? "no map of this class" : "a mask without maps", plain] : [`map of ${data.classes[state.class]}`, heat(method.maps[k])];
      }
      default: return method.mask ? [decided, labels(method.mask, shown)] : ["no mask was written", plain];
    }
  }

  function show(tile, shown, colour, caption, remark = "") {
    paint(tile.canvas, shown, colour);
    tile.caption.textContent = caption;
    tile.remark.textContent = remark;
    tile.canvas.setAttribute("aria-label", `${tile.of}: ${caption} ${remark}`.trim());
  }

  const atItsOwn = (method) => state.threshold === null && method.threshold !== null;

  // Where the slider stands: where it was put; before that at the fixed threshold, or else at the image's own.
  function level(shown) {
    const own = shown.methods.find(({ threshold }) => threshold !== null);
    return state.threshold ?? fixed[0] ?? own?.threshold ?? 0.3;
  }

  function sweepAt(slider, shown) {
    const own = data.methods.filter((_, m) => atItsOwn(shown.methods[m])).map(({ name }) => name);
    const known = data.methods.filter(({ name, sweep }) => sweep && !own.includes(name)).map(({ name, sweep }) => {
      const at = sweep.thresholds.findIndex((threshold) => Math.abs(threshold - slider) < 1e-6);
      return at < 0 || sweep.miou[at] === null ? "" : `${name} ${sweep.miou[at].toFixed(1)}`;
    }).filter(Boolean);
    return [
      known.length ? `mIoU over the whole split at this threshold: ${known.join(", ")}.` : "",
      own.length ? `Until the slider is moved, each image is cut at its own threshold for ${own.join(", ")}.` : "",
    ].join(" ");
  }

  function paintThreshold(shown) {
    const slider = level(shown);
    find("threshold").value = slider;
    find("level").textContent = slider.toFixed(2);
    find("sweep").textContent = sweepAt(slider, shown);
    shown.methods.forEach((method, m) => {
      tiles[m].below.figure.hidden = !method.known;
      if (!method.known) return;
      const own = atItsOwn(method);
      const threshold = own ? method.threshold : slider;
      const mask = method.winner.map((index, i) => (method.best[i] >= threshold ? index : 0));
      const caption = `${own ? "own cut" : "cut at"} ${threshold.toFixed(2)}`;
      show(tiles[m].below, shown, labels(mask, shown), caption, right(mask, shown.truth));
    });
  }

  function paintAll(shown) {
    show(reference.above, shown, plain, "image");
    if (shown.truth) show(reference.below, shown, labels(shown.truth, shown), "ground truth");
    reference.below.figure.hidden = !shown.truth;
    shown.methods.forEach((method, m) => {
      const [caption, colour] = layerOf(method, shown);
      const isMask = state.layer === "overlay" || state.layer === "mask";
      show(tiles[m].above, shown, colour, caption, isMask ? right(method.mask, shown.truth) : "");
    });
    paintThreshold(shown);
  }

  // --- controls ------------------------------------------------------------------------------------------------

  function column(title) {
    const box = make("div");
    box.append(make("h3", title));
    const tile = () => {
      const figure = make("figure"), canvas = make("canvas"), caption = make("span"), remark = make("span");
      canvas.setAttribute("role", "img");
      const line = make("figcaption");
      line.append(caption, remark);
      figure.append(canvas, line);
      box.append(figure);
      return { of: title, figure, canvas, caption, remark };
    };
    find("tiles").append(box);
    return { above: tile(), below: tile() };
  }

  function swatch(index) {
    const mark = make("i");
    mark.style.background = `rgb(${data.palette[index].join(" ")})`;
    return mark;
  }

  function legend(list, indices) {
    list.replaceChildren(...indices.map((index) => {
      const item = make("li");
      item.append(swatch(index), index === data.ignore ? "not judged" : data.classes[index]);
      return item;
    }));
  }

  function layerButtons(classes, { truth }) {
    const button = (text, layer, index = null) => {
      const result = Object.assign(make("button", text), { type: "button" });
      Object.assign(result.dataset, { layer, class: index ?? "" });
      if (index !== null) result.prepend(swatch(index));
      result.setAttribute("aria-pressed", layer === state.layer && (index === null || index === state.class));
      result.addEventListener("click", () => {
        Object.assign(state, { layer, class: index ?? state.class });
        render();
      });
      return result;
    };
    const focused = find("layers").contains(document.activeElement);
    find("layers").replaceChildren(
      button("Overlay", "overlay"), button("Mask", "mask"), button("Image", "image"),
      ...(truth ? [button("Ground truth", "truth")] : []),
      ...(data.images.some((one) => one.methods.some((method) => method.background))
        ? [button("Background map", "background")] : []),
      ...classes.map((index) => button(`Map of ${data.classes[index]}`, "class", index)),
    );
    if (focused) find("layers").querySelector("[aria-pressed=true]")?.focus();
  }

  async function render() {
    const index = state.image;
    find("gallery").setAttribute("aria-busy", "true");
    const shown = await decoded(index);
    if (index !== state.image) return;  // overtaken by a later page
    const { name, labels: given, methods } = data.images[index];
    const mapped = [...new Set(methods.flatMap((method) => method.classes ?? []))].sort((a, b) => a - b);
    if (state.layer === "truth" && !shown.truth) state.layer = "overlay";
    if (state.layer === "class" && !mapped.includes(state.class)) state.class = mapped[0] ?? null;
    find("counter").textContent = `${index + 1} / ${data.images.length}`;
    find("name").textContent = name;
    find("labels").textContent = given.length ? `labelled ${given.map((label) => data.classes[label]).join(", ")}` : "without labels";
    find("scale").hidden = state.layer !== "class" && state.layer !== "background";
    layerButtons(mapped, shown);
    const seen = new Set([0, ...mapped, ...given, ...(shown.truth ?? [])]);
    shown.methods.forEach(({ mask }) => mask?.forEach((value) => seen.add(value)));
    legend(find("legend"), [...seen].sort((a, b) => a - b));
    paintAll(shown);
    find("gallery").setAttribute("aria-busy", "false");
    decoded((index + 1) % data.images.length);  // the next one is likely asked for
  }

  function turn(by) {
    state.image = (state.image + by + data.images.length) % data.images.length;
    render();
  }

  async function setThreshold(value) {
    state.threshold = value;
    const index = state.image;
    const shown = await decoded(index);
    if (index === state.image) paintThreshold(shown);
  }

  function jump(text, value, kind = "") {
    const button = Object.assign(make("button", text), { type: "button", className: kind });
    button.addEventListener("click", () => setThreshold(value));
    find("jumps").append(button);
  }

  const reference = column("reference");
  const tiles = data.methods.map(({ name }) => column(name));
  fixed.forEach((value) => jump(`fixed ${value.toFixed(2)}`, value));
  if (data.images.some(({ methods }) => methods.some(({ threshold }) => threshold !== null))) {
    jump("each image's own", null);
  }
  data.methods.forEach(({ name, oracle }) => {
    if (oracle !== null) jump(`${name}, oracle ${oracle.toFixed(2)}`, oracle, "oracle");
  });
  legend(find("all-classes"), data.classes.map((_, index) => index));
  const strip = find("scale").querySelector("canvas");
  paint(strip, { width: 256, height: 1, image: new Uint8Array(1024) }, (i) => [data.heat[i], 1]);
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  find("threshold").addEventListener("input", (event) => setThreshold(event.target.valueAsNumber));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const busy = event.target.matches("input, pre, .scroll") || event.altKey || event.ctrlKey || event.metaKey;
    if (by && !busy) { event.preventDefault(); turn(by); }
  });
  render();
})();
