// What the page shows: the catalogue's columns as filters and colours, and the dates of the chosen ROI.

const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#332288", "#999933", "#882255", "#44aa99", "#dddddd"];
const RAMP = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const UNKNOWN = "#b4bcc4", VARIES = "#6f7a85";
const ORDERED = ["cloud_coverage"]; // categories that go from less to more
const FILTERED = ["label_type", "split", "cloud_coverage", "difficulty"];
const FIRST = [...FILTERED, "land_cover", "datetime"]; // of the colours; the others follow

const byId = (id) => document.getElementById(id);
const words = (name) => name.replaceAll("_", " ");
const many = (count, name, plural = name + "s") => `${count.toLocaleString("en")} ${count === 1 ? name : plural}`;
const brought = JSON.parse(byId("data").textContent); // null where a server is to be asked

// An element; what the cube says goes in as text, never as markup.
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const page = { catalogue: null, map: null, columns: {}, wanted: {}, passes: [], shown: [], chosen: -1, picked: "", layer: "", opacity: 0.6, turn: 0 };

async function start() {
  page.catalogue = brought ? brought.catalogue : await ask("catalogue.json");
  for (const column of page.catalogue.columns) page.columns[column.name] = column;
  byId("map").addEventListener("click", (event) => {
    const way = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (way === "0") page.map.fit();
    else if (way) page.map.zoom(way === "1" ? 1.6 : 1 / 1.6);
  });
  page.map = new WorldMap(document.querySelector("canvas"), JSON.parse(byId("land").textContent), {
    pick: (point) => choose(point.index),
    hover: tip,
  });
  makeFilters();
  makeColours();
  byId("find").addEventListener("submit", find);
  update();
  page.map.fit();
  const linked = page.catalogue.rois.findIndex((id) => encodeURIComponent(id) === location.hash.slice(1));
  if (linked >= 0) choose(linked);
}

async function ask(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
}

// ---- filters: of each property any of the pressed values; none pressed means all

function makeFilters() {
  for (const name of FILTERED) {
    const column = page.columns[name];
    if (!column) continue;
    const values = column.categories ? column.categories.map((text, value) => [text, value]) : numbers(column);
    const blank = column.values.some((value, i) => value === null && page.catalogue.ids[i]);
    if (blank) values.push(["unknown", null]);
    page.wanted[name] = new Set();
    const chips = values.map(([text, value]) => chip(name, text, value));
    byId("filters").append(make("fieldset", {}, make("legend", { textContent: words(name) }), ...chips));
  }
  const reset = make("button", { type: "button", className: "plain", id: "reset", textContent: "show all", hidden: true });
  reset.addEventListener("click", () => {
    for (const set of Object.values(page.wanted)) set.clear();
    for (const one of document.querySelectorAll(".chip")) one.setAttribute("aria-pressed", "false");
    update();
  });
  byId("filters").append(reset);
}

function numbers(column) {
  const found = [...new Set(column.values)].filter((value) => value !== null).sort((a, b) => a - b);
  return found.map((value) => [String(value), value]);
}

function chip(name, text, value) {
  const button = make("button", { type: "button", className: "chip", textContent: text });
  button.setAttribute("aria-pressed", "false");
  button.dataset.filter = name;
  button.addEventListener("click", () => {
    const set = page.wanted[name], on = !set.has(value);
    on ? set.add(value) : set.delete(value);
    button.setAttribute("aria-pressed", String(on));
    update();
  });
  return button;
}

function update() {
  const { ids, rois, dates } = page.catalogue;
  const filters = Object.entries(page.wanted).filter(([, set]) => set.size);
  page.passes = ids.map((id, i) => Boolean(id) && filters.every(([name, set]) => set.has(page.columns[name].values[i])));
  page.shown = [];
  for (let roi = 0; roi < rois.length; roi++) {
    for (let i = roi * dates; i < (roi + 1) * dates; i++) if (page.passes[i]) { page.shown.push(roi); break; }
  }
  const patches = page.passes.filter(Boolean).length, all = ids.filter(Boolean).length;
  const placed = page.shown.filter((roi) => page.catalogue.longitude[roi] !== null).length;
  const summary = filters.length
    ? `${page.shown.length.toLocaleString("en")} of ${many(rois.length, "ROI")}, ${patches.toLocaleString("en")} of ${many(all, "patch", "patches")}`
    : `${many(rois.length, "ROI")}, ${many(all, "patch", "patches")}`;
  byId("counts").textContent = summary + (placed < page.shown.length ? ` (${page.shown.length - placed} without a place)` : "");
  byId("reset").hidden = !filters.length;
  recolour();
  for (const figure of document.querySelectorAll("figure")) figure.classList.toggle("out", !page.passes[figure.dataset.patch]);
}

// ---- colours

function makeColours() {
  const select = byId("colour");
  const names = new Set([...FIRST, ...Object.keys(page.columns)].filter((name) => page.columns[name]));
  for (const name of names) select.append(make("option", { value: name, textContent: words(name), title: page.columns[name].about }));
  select.value = page.columns.label_type ? "label_type" : select.options[0]?.value;
  select.addEventListener("change", recolour);
}

function recolour() {
  const column = page.columns[byId("colour").value], { longitude, latitude } = page.catalogue;
  const scale = column ? (column.categories ? categorical(column) : numeric(column)) : { color: () => UNKNOWN, legend: [] };
  const points = page.shown.map((index) => ({ index, x: longitude[index], y: latitude[index], color: scale.color(index) }));
  const known = points.filter((point) => point.x !== null && point.y !== null);
  known.sort((a, b) => (b.color === UNKNOWN) - (a.color === UNKNOWN));
  page.map.show(known);
  page.map.choose(page.chosen < 0 ? null : point(page.chosen));
  byId("legend").replaceChildren(...scale.legend);
}

function point(roi) {
  const found = page.map.points.find((one) => one.index === roi), { longitude, latitude } = page.catalogue;
  return found || (longitude[roi] === null ? null : { index: roi, x: longitude[roi], y: latitude[roi], color: UNKNOWN });
}

// Values of the patches of an ROI that pass the filters.
function valuesOf(column, roi) {
  const { dates } = page.catalogue, found = [];
  for (let i = roi * dates; i < (roi + 1) * dates; i++) if (page.passes[i] && column.values[i] !== null) found.push(column.values[i]);
  return found;
}

function categorical(column) {
  const last = column.categories.length - 1;
  const colors = column.categories.map((_, i) => (ORDERED.includes(column.name) ? ramp(last ? i / last : 0) : PALETTE[i] || UNKNOWN));
  const counts = new Map();
  const found = new Map(page.shown.map((roi) => {
    const values = new Set(valuesOf(column, roi));
    const kind = values.size > 1 ? "varies" : values.size ? [...values][0] : "unknown";
    counts.set(kind, (counts.get(kind) || 0) + 1);
    return [roi, kind];
  }));
  const color = (kind) => (kind === "varies" ? VARIES : kind === "unknown" ? UNKNOWN : colors[kind]);
  const row = (kind, text) => {
    const dot = make("span", { className: "dot" });
    dot.style.background = color(kind);
    return make("li", {}, dot, make("span", { textContent: text }), make("span", { className: "count", textContent: (counts.get(kind) || 0).toLocaleString("en") }));
  };
  const rows = column.categories.map((text, value) => row(value, text));
  for (const kind of ["varies", "unknown"]) if (counts.has(kind)) rows.push(row(kind, kind === "varies" ? "its dates differ" : kind));
  return { color: (roi) => color(found.get(roi)), legend: [make("ul", {}, ...rows)] };
}

function numeric(column) {
  const [low, high] = range(column.values.filter((value) => value !== null));
  const mean = new Map(page.shown.map((roi) => {
    const values = valuesOf(column, roi);
    return [roi, values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null];
  }));
  const bar = make("div", { className: "ramp" });
  bar.style.background = `linear-gradient(90deg, ${RAMP.join(",")})`;
  const ends = make("div", { className: "ends" }, make("span", { textContent: tell(column, low) }), make("span", { textContent: tell(column, high) }));
  const unit = column.units ? `${column.units}; ` : "";
  const legend = [bar, ends, make("p", { className: "hint", textContent: `${unit}mean of the dates that are shown` })];
  if ([...mean.values()].includes(null)) {
    const dot = make("span", { className: "dot" });
    dot.style.background = UNKNOWN;
    legend.push(make("ul", {}, make("li", {}, dot, make("span", { textContent: "unknown" }))));
  }
  const share = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  return { color: (roi) => (mean.get(roi) === null ? UNKNOWN : ramp(share(mean.get(roi)))), legend };
}

// Forty colours are as many as the eye tells apart, and let the map draw all points of one at once.
function ramp(share) {
  const at = (Math.round(share * 40) / 40) * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2);
  const parts = [1, 3, 5].map((k) => {
    const [a, b] = [RAMP[i], RAMP[i + 1]].map((color) => parseInt(color.slice(k, k + 2), 16));
    return Math.round(a + (b - a) * (at - i));
  });
  return `rgb(${parts.join(",")})`;
}

function tell(column, value) {
  if (value === null || value === undefined) return "unknown";
  if (column.categories) return column.categories[value];
  return column.kind === "time" ? new Date(value * 1000).toISOString().slice(0, 10) : String(Number(value.toPrecision(5)));
}

// ---- the chosen ROI

function tip(point, at) {
  const box = byId("tip");
  box.hidden = !point;
  if (!point) return;
  const facts = ["label_type", "split"].map((name) => property(name, point.index)).filter(Boolean);
  box.textContent = [page.catalogue.rois[point.index], ...facts].join(" · ");
  box.style.left = `${Math.min(at[0], byId("map").clientWidth - box.offsetWidth - 18)}px`;
  box.style.top = `${Math.max(at[1], 34)}px`;
}

// What all dates of an ROI have in common.
function property(name, roi) {
  const column = page.columns[name], { dates, ids } = page.catalogue;
  if (!column) return "";
  const cells = column.values.slice(roi * dates, (roi + 1) * dates).filter((_, t) => ids[roi * dates + t]);
  return cells.length && cells[0] !== null && new Set(cells).size === 1 ? tell(column, cells[0]) : "";
}

function find(event) {
  event.preventDefault();
  const field = byId("search"), text = field.value.trim().toLowerCase();
  const roi = page.catalogue.rois.findIndex((id) => [id.toLowerCase(), id.toLowerCase().replace(/^roi_0*/, "")].includes(text.replace(/^0+/, "")));
  field.classList.toggle("wrong", roi < 0);
  if (roi >= 0) choose(roi);
}

// The layer that the user picked; else the expert's for this kind of ROI: one with scribbles has no other.
function layerOf(roi) {
  const { layers } = page.catalogue, scribbled = property("label_type", roi) === "scribble" && layers.includes("manual_sc");
  return page.picked || (scribbled ? "manual_sc" : layers[0] || "");
}

function choose(roi) {
  page.chosen = roi;
  page.layer = layerOf(roi);
  page.map.choose(point(roi));
  const { rois, dates, ids, longitude, latitude, layers } = page.catalogue;
  history.replaceState(null, "", `#${encodeURIComponent(rois[roi])}`);
  const where = longitude[roi] === null ? "place unknown" : `${degree(latitude[roi], "N", "S", 3)} ${degree(longitude[roi], "E", "W", 3)}`;
  const cover = property("land_cover", roi);
  const facts = [property("label_type", roi), property("split", roi), cover && `land cover ${cover}`, where].filter(Boolean);
  const figures = [];
  for (let t = 0; t < dates; t++) if (ids[roi * dates + t]) figures.push(figure(roi, t));
  const parts = [head(roi), make("p", { className: "facts", textContent: facts.join(" · ") })];
  if (layers.length) parts.push(controls());
  byId("detail").replaceChildren(...parts, make("div", { className: "dates" }, ...figures));
  byId("detail").scrollTop = 0;
  load(roi, page.catalogue.pictures ? "rgb" : null, ".rgb");
  load(roi, page.layer || null, ".label");
}

function head(roi) {
  const step = (text, name, by) => {
    const button = make("button", { type: "button", className: "step", textContent: text, title: name });
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => {
      const shown = page.shown.length ? page.shown : [roi];
      const at = by > 0 ? shown.findIndex((other) => other > roi) : shown.findLastIndex((other) => other < roi);
      choose(shown.at(at < 0 ? (by > 0 ? 0 : -1) : at));
      document.querySelector(`.step[title="${name}"]`).focus();
    });
    return button;
  };
  return make("div", { className: "head" }, make("h2", { textContent: page.catalogue.rois[roi] }), step("‹", "Previous ROI", -1), step("›", "Next ROI", 1));
}

function controls() {
  const select = make("select", { id: "layer" }, ...page.catalogue.layers.map((name) => make("option", { value: name, textContent: name })));
  select.value = page.layer;
  select.addEventListener("change", () => {
    page.layer = page.picked = select.value;
    load(page.chosen, page.layer, ".label");
  });
  const slider = make("input", { id: "opacity", type: "range", min: 0, max: 100, value: page.opacity * 100 });
  slider.addEventListener("input", () => {
    page.opacity = slider.value / 100;
    for (const image of document.querySelectorAll(".frame .label")) image.style.opacity = page.opacity;
  });
  const rows = page.catalogue.classes.map(({ name, color }) => {
    const box = make("i", { className: name === "clear" ? "clear" : "" });
    if (name !== "clear") box.style.background = color;
    return make("li", {}, box, name === "clear" ? "clear (see-through)" : name);
  });
  return make("div", { className: "controls" },
    make("label", {}, "Label layer", select), make("label", {}, "Opacity of the labels", slider), make("ul", { className: "classes" }, ...rows));
}

function figure(roi, t) {
  const patch = roi * page.catalogue.dates + t;
  const value = (name) => page.columns[name]?.values[patch] ?? null;
  const when = value("datetime") === null ? "date unknown" : new Date(value("datetime") * 1000).toISOString();
  const facts = [value("cloud_coverage") === null ? "" : tell(page.columns.cloud_coverage, value("cloud_coverage")), value("difficulty") === null ? "" : `difficulty ${value("difficulty")}`];
  const label = make("img", { className: "label", alt: "", hidden: true });
  label.style.opacity = page.opacity;
  const frame = make("button", { type: "button", className: "frame waiting", title: "Larger or smaller" },
    make("img", { className: "rgb", alt: "", hidden: true }), label, make("span", { className: "note", hidden: true }));
  frame.setAttribute("aria-label", `${when.slice(0, 10)}: larger or smaller`);
  const caption = make("figcaption", {}, make("b", { textContent: when.slice(0, 10) }), make("span", { textContent: when.length > 20 ? ` ${when.slice(11, 16)} UTC` : "" }),
    make("div", { textContent: facts.filter(Boolean).join(", ") }), breakable(page.catalogue.ids[patch]));
  const whole = make("figure", { className: page.passes[patch] ? "" : "out" }, frame, caption);
  whole.dataset.patch = patch;
  frame.addEventListener("click", () => whole.classList.toggle("large"));
  return whole;
}

// A long id, which may break behind its underscores.
function breakable(id) {
  const parts = id.split("_").flatMap((part, i) => (i ? ["_", make("wbr"), part] : [part]));
  return make("small", {}, ...parts);
}

const kept = new Map(); // pictures that were asked for; the oldest goes first

async function load(roi, what, where) {
  const key = `${roi}/${what}`;
  page.turn += 1;
  const slot = byId("detail").querySelector(".dates"), turn = String(page.turn);
  slot.dataset[where.slice(1)] = turn;
  let found;
  try {
    if (what === null) found = where === ".rgb" ? "no images in this cube" : null;
    else if (brought) found = brought.pictures[key] || "this file brings no pictures of this ROI: browse the cube, or export with more --pictures";
    else {
      if (!kept.has(key)) kept.set(key, await ask(`pictures/${key}.json`));
      if (kept.size > 60) kept.delete(kept.keys().next().value);
      found = kept.get(key);
    }
  } catch (error) {
    found = `cannot be read: ${error.message}`;
  }
  if (slot.dataset[where.slice(1)] !== turn || !slot.isConnected) return; // something newer was asked for meanwhile
  for (const figure of slot.children) show(figure, where, found, Number(figure.dataset.patch) - roi * page.catalogue.dates);
}

function show(figure, where, found, t) {
  const image = figure.querySelector(where), frame = figure.querySelector(".frame");
  const picture = typeof found === "string" ? { src: "", note: found } : found?.[t];
  image.hidden = !picture?.src;
  if (picture?.src) image.src = picture.src;
  image.dataset.note = picture?.note || "";
  image.alt = { ".rgb": "true colour", ".label": `labels of ${page.layer}` }[where];
  frame.classList.remove("waiting");
  const notes = [...new Set([...frame.querySelectorAll("img")].map((one) => one.dataset.note).filter(Boolean))];
  const note = frame.querySelector(".note");
  note.textContent = notes.join("; ");
  note.hidden = !notes.length;
}

start().catch((error) => (byId("counts").textContent = `The catalogue cannot be read: ${error.message}`));
