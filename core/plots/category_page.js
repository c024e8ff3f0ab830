"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { categories, images } = data;
  const count = images.id.length;
  const place = new Map(categories.map((c, i) => [c.cluster, i]));
  const framed = window.parent !== window;
  const number = new Intl.NumberFormat("en");
  const members = categories.map(() => []);
  for (let i = 0; i < count; i++) members[place.get(images.cluster[i])]?.push(i);

  // Names and ids reach the page through here alone: as text, never as markup.
  function el(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (value === undefined) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made && key !== "list") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }
  const plural = (n, word) => `${number.format(n)} ${word}${n === 1 ? "" : "s"}`;
  const share = (value) => (value === null ? "not known" : `${Math.round(100 * value)} %`);

  /* What the person has said, and what it was before. */
  const fresh = () => categories.map((c) => ({ name: c.known ? c.name : "", merge: null, split: false, names: ["", ""], drop: false }));
  let state = fresh();
  let past = [];
  let chosen = new Set();
  let before = null; // the state when a field was entered, until something is typed there
  let unsaved = false;
  let told = ""; // what is to be said until the next change
  let calm = false; // and whether it is no complaint
  const store = `taxon ${data.run} ${data.digest}`;

  function remember() {
    past.push(JSON.stringify(state));
    if (past.length > 500) past.shift();
  }
  function change(act) {
    remember();
    act();
    changed();
  }
  function changed() {
    unsaved = true;
    told = "";
    try { localStorage.setItem(store, JSON.stringify(state)); } catch { /* a frame without an origin has no storage */ }
    refresh();
  }
  function undo() {
    if (!past.length) return;
    state = JSON.parse(past.pop());
    before = JSON.stringify(state);
    changed();
  }

  const tidy = (text) => text.normalize("NFC").replace(/\s+/g, " ").trim();
  // A name that nobody changed stays what it is, whatever blanks or accents a folder's name has.
  const asFound = (i) => state[i].name === "" || state[i].name === categories[i].name;
  const nameOf = (i) => (asFound(i) ? categories[i].name : tidy(state[i].name) || categories[i].name);
  const active = (i) => state[i].merge === null && !state[i].drop;
  const root = (i) => (state[i].merge === null ? i : state[i].merge);
  const mergedInto = (i) => categories.flatMap((_, other) => (state[other].merge === i ? [other] : []));

  const missing = new Set(data.missing);
  /* Names in use: name -> places [category, half or -1]. */
  function uses() {
    const found = new Map();
    const add = (name, where) => { if (name) found.set(name, [...(found.get(name) || []), where]); };
    categories.forEach((_, i) => {
      if (!active(i)) return;
      if (state[i].split) state[i].names.forEach((name, half) => add(tidy(name), [i, half]));
      else add(tidy(nameOf(i)), [i, -1]);
    });
    return found;
  }
  // Folders may have names that differ in blanks only: that is for nobody to mend here.
  const clash = (where) => where.length > 1
    && !(where.every(([i, half]) => half < 0 && asFound(i)) && new Set(where.map(([i]) => categories[i].name)).size === where.length);

  function merge(group) {
    const all = [...new Set(group.flatMap((i) => [root(i), ...mergedInto(root(i))]))];
    const order = (i) => [categories[i].known ? 1 : 0, categories[i].size];
    const target = all.reduce((a, b) => {
      const [x, y] = [order(a), order(b)];
      return y[0] > x[0] || (y[0] === x[0] && y[1] > x[1]) ? b : a;
    });
    change(() => {
      const given = all.map((i) => tidy(state[i].name)).filter(Boolean);
      if (!tidy(state[target].name) && given.length) state[target].name = given[0];
      for (const i of all) Object.assign(state[i], { merge: i === target ? null : target, split: false, drop: false });
      chosen.clear();
    });
    cards[target].box.scrollIntoView({ block: "nearest" });
  }
  function split(i) {
    change(() => {
      state[i].split = !state[i].split;
      if (state[i].split && !state[i].names[0] && !state[i].names[1]) state[i].names = [tidy(state[i].name), ""];
    });
    if (state[i].split) cards[i].halves[0].focus();
  }
  function drop(i) {
    change(() => {
      state[i].drop = !state[i].drop;
      for (const other of mergedInto(i)) state[other].merge = null;
      chosen.delete(i);
    });
  }

  /* Thumbnails: tiles of the sheets, each sheet read when one of its tiles is first shown. */
  const rules = document.head.appendChild(el("style")).sheet;
  const read = new Set();
  const aSheet = data.columns * data.columns;
  function tile(i, size = 56, tag = "li") {
    const sheet = Math.floor(i / aSheet), at = i % aSheet;
    if (!read.has(sheet)) {
      read.add(sheet);
      const code = $(`sheet-${sheet}`).textContent;
      rules.insertRule(`.s${sheet} { background-image: url("data:image/jpeg;base64,${code}"); }`, rules.cssRules.length);
    }
    const made = el(tag, { className: `tile s${sheet}`, role: "img", ariaLabel: images.id[i], title: images.id[i] });
    made.dataset.image = i;
    made.style.backgroundSize = `${data.columns * size}px auto`;
    made.style.backgroundPosition = `${-(at % data.columns) * size}px ${-Math.floor(at / data.columns) * size}px`;
    return made;
  }
  // One stop of the Tab key for a row of tiles; arrow keys go through it.
  function tiles(which, label) {
    const list = el("ul", { className: "tiles", role: "list", ariaLabel: label, onkeydown: step }, ...which.map((i) => tile(i)));
    for (const one of list.children) one.tabIndex = one === list.firstChild ? 0 : -1;
    return list;
  }
  function step(event) {
    const ways = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" };
    const other = event.target[ways[event.key]];
    if (!other) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    other.tabIndex = 0;
    other.focus();
  }
  const row = (title, which) => (which.length ? el("div", null, el("h3", null, title), tiles(which, title)) : null);

  /* Cards of the categories. */
  const hue = (i) => Math.round((i * 137.508 + 20) % 360);
  const colourOf = (i) => `hsl(${hue(i)} ${i % 2 ? 60 : 75}% ${[46, 58, 36][i % 3]}%)`;
  const cards = categories.map(makeCard);

  function makeCard(category, i) {
    const word = category.known ? "known" : "novel";
    const typed = (event) => type(() => { state[i].name = event.target.value; });
    const id = `name-${category.cluster}`;
    const card = { category, i, filled: false };
    card.choose = el("input", { type: "checkbox", ariaLabel: `Choose ${category.name} to merge`, onchange: (event) => {
      if (event.target.checked) chosen.add(i); else chosen.delete(i);
      refresh();
    } });
    card.name = el("input", {
      type: "text", id, placeholder: `${category.name}: type a name`, autocomplete: "off", spellcheck: false, dir: "auto",
      ariaLabel: `Name of ${category.name}`, onfocus: begin, oninput: typed, onkeydown: next,
    });
    card.name.setAttribute("aria-describedby", `wrong-${category.cluster}`);
    card.halves = [0, 1].map((half) => el("input", {
      type: "text", placeholder: "no name: stays unlabelled", autocomplete: "off", spellcheck: false, dir: "auto",
      ariaLabel: `Name of half ${half + 1} of ${category.name}`, onfocus: begin,
      oninput: (event) => type(() => { state[i].names[half] = event.target.value; }),
    }));
    card.split = el("button", { type: "button", onclick: () => split(i) });
    card.drop = el("button", { type: "button", onclick: () => drop(i) });
    card.back = el("button", { type: "button", textContent: "Take out", onclick: () => change(() => { state[i].merge = null; }) });
    card.wrong = el("p", { className: "wrong", id: `wrong-${category.cluster}`, role: "status" });
    card.merged = el("div", { className: "merged" });
    card.rows = el("div", { className: "rows" });
    card.word = el("span", { className: "word", textContent: word });
    card.note = el("span", { className: "note" });
    card.dot = el("span", { className: "dot", ariaHidden: "true" });
    card.dot.style.background = colourOf(i);
    const title = el("div", { className: "title" }, card.choose, card.dot, card.word, card.name, card.note, el("span", { className: "space" }), card.split, card.drop, card.back);
    card.box = el("article", { className: `card ${word}`, id: `category-${category.cluster}`, ariaLabel: `${category.name}, ${word}` },
      title, card.wrong, card.merged, about(category), card.rows);
    card.box.style.borderLeftColor = colourOf(i);
    card.box.addEventListener("pointerenter", () => light(i));
    card.box.addEventListener("pointerleave", () => light(-1));
    card.box.addEventListener("focusin", () => light(i));
    return card;
  }
  function about(category) {
    const told = [plural(category.size, "image"), `confidence ${share(category.confidence)}`];
    if (category.expected_purity !== null) told.push(`expected purity ${share(category.expected_purity)}`);
    if (category.cohesion !== null) told.push(`cohesion ${category.cohesion.toFixed(2)}`);
    const meta = el("p", { className: "meta" }, told.join(" \u00b7 "));
    const other = place.get(category.nearest);
    if (other !== undefined) {
      const link = el("a", { href: `#category-${category.nearest}`, onclick: (event) => { event.preventDefault(); go(other); } });
      link.dataset.names = other;
      meta.append(" \u00b7 nearest: ", link, category.separation === null ? "" : ` (distance ${category.separation.toFixed(2)})`);
    }
    return meta;
  }
  // One step back for each field that is gone through, however much is typed there.
  function begin() { before = JSON.stringify(state); }
  function type(act) {
    if (before !== null) past.push(before);
    before = null;
    act();
    changed();
  }
  function next(event) {
    if (event.key !== "Enter") return;
    const shown = [...document.querySelectorAll(".card:not([hidden]):not(.gone) input[type=text]")].filter((field) => field.offsetParent);
    shown[shown.indexOf(event.target) + 1]?.focus();
  }
  function fill(card) {
    const { category, i } = card;
    const how = state[i].split ? "halves" : "whole";
    if (card.filled === how) return;
    card.filled = how;
    if (how === "halves") {
      card.rows.replaceChildren(...[0, 1].map((half) => {
        const which = members[i].filter((image) => images.half[image] === half), total = category.halves[half];
        const label = el("label", null, `Half ${half + 1}, ${plural(total, "image")} `, card.halves[half]);
        return el("div", { className: "half" }, label, tiles(which.slice(0, 24), `Half ${half + 1}`), further(which.slice(24), which.length < total));
      }));
      return;
    }
    const named = [["Central", category.central], ["Borderline", category.borders], ["Outlying", category.outliers]];
    card.rows.replaceChildren(...named.map(([title, which]) => row(title, which)).filter(Boolean));
    if (!members[i].length) card.rows.append(el("p", { className: "note", textContent: "No image." }));
    const listed = new Set(named.flatMap((pair) => pair[1]));
    card.rows.append(further(members[i].filter((image) => !listed.has(image)), members[i].length < category.size));
  }
  // The rest of a category, made when somebody opens it.
  function further(which, sampled) {
    if (!which.length) return "";
    const more = el("details", { className: "half", ontoggle: () => { if (more.open && !more.querySelector("ul")) more.append(tiles(which, "Further images")); } },
      el("summary", { textContent: plural(which.length, "further image") + (sampled ? ", a sample" : "") }));
    return more;
  }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { const card = cards[+entry.target.dataset.card]; card.near = true; fill(card); }
  }, { root: document, rootMargin: "600px" });
  cards.forEach((card) => { card.box.dataset.card = card.i; seen.observe(card.box); });

  function go(i) {
    if (cards[i].box.hidden) { $("show").value = "all"; arrange(); }
    cards[i].box.scrollIntoView({ block: "start" });
    (active(i) && !state[i].split ? cards[i].name : cards[i].back).focus({ preventScroll: true });
  }

  /* Everything that depends on what was said. */
  function refresh() {
    const used = uses();
    let wrong = "", first = -1;
    const wrongs = categories.map(() => []);
    for (const [name, where] of used) {
      const twice = clash(where), empty = missing.has(name) && !where.every(([i]) => asFound(i));
      if (!twice && !empty) continue;
      const cards = [...new Set(where.map((one) => one[0]))], why = twice ? "is used twice" : "means \u201cno value\u201d in a table";
      if (!wrong) { wrong = `The name \u201c${name}\u201d ${why}: give another name${twice ? ", or merge the two" : ""}.`; first = cards[cards.length - 1]; }
      for (const i of cards) wrongs[i].push([name, twice ? cards : [], why]);
    }
    const merged = categories.map(() => []);
    state.forEach((said, i) => merged[said.merge]?.push(i));
    cards.forEach((card, i) => show(card, i, wrongs[i], merged[i]));
    for (const link of document.querySelectorAll("[data-names]")) link.textContent = nameOf(+link.dataset.names);
    const novel = categories.flatMap((c, i) => (!c.known && active(i) ? [i] : []));
    const named = novel.filter((i) => (state[i].split ? state[i].names.some(tidy) : tidy(state[i].name)));
    $("progress").textContent = novel.length ? `${named.length} of ${plural(novel.length, "novel category").replace("categorys", "categories")} named` : "";
    $("undo").disabled = !past.length;
    $("merge").disabled = chosen.size < 2;
    $("merge").textContent = chosen.size ? `Merge chosen (${chosen.size})` : "Merge chosen";
    say(wrong || told, !wrong && calm);
    draw();
    return first;
  }
  function show(card, i, wrongs, within) {
    const said = state[i], away = said.merge !== null, whole = !away && !said.drop;
    card.box.classList.toggle("gone", !whole);
    card.box.classList.toggle("chosen", chosen.has(i));
    card.choose.checked = chosen.has(i);
    card.choose.hidden = !whole;
    if (card.name.value !== said.name) card.name.value = said.name;
    card.name.hidden = !whole || said.split;
    card.halves.forEach((field, half) => { if (field.value !== said.names[half]) field.value = said.names[half]; });
    card.note.textContent = away ? `${nameOf(i)} \u2192 merged into ${nameOf(said.merge)}` : said.drop ? `${nameOf(i)} is dropped: ${categories[i].known ? "what nobody labelled in it stays" : "its images stay"} unlabelled` : said.split ? `${nameOf(i)}, split in two` : "";
    card.split.textContent = said.split ? "Join again" : "Split";
    card.split.hidden = !whole;
    card.split.disabled = members[i].length < 2 || within.length > 0;
    card.drop.textContent = said.drop ? "Keep after all" : "Drop";
    card.drop.hidden = away;
    card.back.hidden = !away;
    for (const field of [card.name, ...card.halves]) field.setAttribute("aria-invalid", wrongs.some(([name]) => tidy(field.value || (field === card.name ? categories[i].name : "")) === name));
    card.wrong.replaceChildren(...wrongs.flatMap(([name, where, why]) => [
      `\u201c${name}\u201d ${why}. `,
      where.length > 1 ? el("button", { type: "button", textContent: "Merge these", onclick: () => merge(where) }) : "",
    ]));
    const total = within.reduce((sum, other) => sum + categories[other].size, categories[i].size);
    const parts = within.map((other) => [other, nameOf(other)]), now = JSON.stringify([parts, card.near]);
    if (card.parts !== now) {
      card.parts = now;
      card.merged.replaceChildren(...(parts.length ? [el("p", { textContent: `Merged, together ${plural(total, "image")}:` })] : []),
        ...parts.map(([other, name]) => el("div", null, el("h3", { textContent: name }), card.near ? tiles(categories[other].central.slice(0, 8), name) : "")));
    }
    if (card.near) fill(card);
  }
  function say(text, calm = false) {
    $("said").classList.toggle("calm", calm);
    $("said").hidden = !text;
    if ($("said").textContent !== text) $("said").textContent = text;
  }
  function arrange() {
    const kind = $("show").value, order = $("order").value;
    const keys = {
      novel: (c) => [c.known ? 1 : 0, -c.size], size: (c) => [0, -c.size], unsure: (c) => [0, c.confidence ?? 2],
      near: (c) => [0, c.separation ?? 9], cluster: (c) => [0, c.cluster],
    };
    const sorted = [...cards].sort((a, b) => {
      const [x, y] = [keys[order](a.category), keys[order](b.category)];
      return x[0] - y[0] || x[1] - y[1] || a.category.cluster - b.category.cluster;
    });
    for (const card of cards) {
      const { known } = card.category;
      card.box.hidden = !(kind === "all" || (kind === "known") === known && (kind !== "unnamed" || !tidy(state[card.i].name)));
    }
    $("categories").replaceChildren(...sorted.map((card) => card.box));
    if (!cards.length) $("categories").append(el("p", { textContent: "There is no category." }));
  }

  /* The map. */
  const canvas = $("map"), pen = canvas.getContext("2d");
  const points = images.x.flatMap((x, i) => (x === null || images.y[i] === null ? [] : [i]));
  let lit = -1, pointed = -1, zoom = 1, centre = [0.5, 0.5], asked = 0, grip = null;
  const bounds = points.reduce((b, i) => [Math.min(b[0], images.x[i]), Math.max(b[1], images.x[i]), Math.min(b[2], images.y[i]), Math.max(b[3], images.y[i])], [Infinity, -Infinity, Infinity, -Infinity]);
  const unit = (value, low, high) => (high > low ? (value - low) / (high - low) : 0.5);
  const at = points.map((i) => [unit(images.x[i], bounds[0], bounds[1]), unit(images.y[i], bounds[2], bounds[3])]);
  const where = new Map(points.map((i, k) => [i, k]));
  function onScreen(k) {
    const { clientWidth: w, clientHeight: h } = canvas, edge = 14;
    return [edge + ((at[k][0] - centre[0]) * zoom + 0.5) * (w - 2 * edge), edge + ((at[k][1] - centre[1]) * zoom + 0.5) * (h - 2 * edge)];
  }
  const value = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const sure = (confidence) => `hsl(${Math.round(40 + 160 * confidence)} 65% ${Math.round(62 - 22 * confidence)}%)`;
  function paint(i) {
    const own = place.get(images.cluster[i]);
    if (own === undefined || state[root(own)].drop) return "#9a9a95";
    if ($("colour").value === "known") return value(categories[root(own)].known ? "--known" : "--novel");
    if ($("colour").value === "confidence") return sure(images.confidence[i] ?? 0);
    return colourOf(root(own));
  }
  function draw() {
    if (asked) return;
    asked = requestAnimationFrame(() => { asked = 0; drawNow(); });
  }
  function drawNow() {
    if (!canvas.clientWidth) return;
    const sharp = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * sharp;
    canvas.height = canvas.clientHeight * sharp;
    pen.scale(sharp, sharp);
    const size = points.length > 2000 ? 2.2 : 3.2, colours = new Map();
    points.forEach((i, k) => {
      const key = $("colour").value === "confidence" ? i : images.cluster[i];
      if (!colours.has(key)) colours.set(key, paint(i));
      const own = place.get(images.cluster[i]);
      const mine = lit < 0 || (own !== undefined && root(own) === root(lit));
      pen.globalAlpha = mine ? 0.85 : 0.12;
      pen.fillStyle = colours.get(key);
      const [x, y] = onScreen(k);
      pen.beginPath();
      pen.arc(x, y, mine && lit >= 0 ? size + 0.8 : size, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
    label();
    const k = where.get(pointed);
    if (k === undefined) return;
    const [x, y] = onScreen(k);
    pen.strokeStyle = value("--text");
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, size + 4, 0, 7);
    pen.stroke();
  }
  // Names where most of a category lies, large ones first, none over another; the one that is pointed at always.
  function label() {
    const taken = [], groups = categories.map(() => []);
    points.forEach((i, k) => { const own = place.get(images.cluster[i]); if (own !== undefined && !state[root(own)].drop) groups[root(own)].push(k); });
    const first = (i) => (lit >= 0 && i === root(lit) ? Infinity : groups[i].length);
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    for (const i of categories.map((_, i) => i).filter((i) => groups[i].length).sort((a, b) => first(b) - first(a)).slice(0, 60)) {
      const middle = (axis) => groups[i].map((k) => onScreen(k)[axis]).sort((a, b) => a - b)[groups[i].length >> 1];
      const name = nameOf(i), text = name.length > 24 ? `${name.slice(0, 23)}\u2026` : name, wide = pen.measureText(text).width / 2 + 4;
      const x = Math.min(Math.max(middle(0), wide), canvas.clientWidth - wide), y = middle(1);
      if (y < 0 || y > canvas.clientHeight || taken.some(([tx, ty, tw]) => Math.abs(x - tx) < wide + tw && Math.abs(y - ty) < 16)) continue;
      taken.push([x, y, wide]);
      pen.globalAlpha = lit < 0 || i === root(lit) ? 1 : 0.3;
      pen.strokeStyle = value("--card");
      pen.strokeText(text, x, y);
      pen.fillStyle = value("--text");
      pen.fillText(text, x, y);
    }
    pen.globalAlpha = 1;
  }
  function legend() {
    const how = $("colour").value, mark = (colour, word) => {
      const dot = el("span", { className: "dot", ariaHidden: "true" });
      dot.style.background = colour;
      return el("span", { className: "key" }, dot, word);
    };
    const marks = { known: [mark("var(--known)", "known"), mark("var(--novel)", "novel")], confidence: [0, 0.5, 1].map((c) => mark(sure(c), share(c))) };
    $("legend").replaceChildren(...(marks[how] || []));
  }
  function light(i) { if (lit !== i) { lit = i; draw(); } }
  function point(i) {
    if (pointed === i) return;
    pointed = i;
    draw();
    const own = place.get(images.cluster[i]);
    const lines = [
      images.id[i],
      own === undefined ? "in no category" : `in ${nameOf(root(own))} (${categories[own].known ? "known" : "novel"})`,
      `confidence ${share(images.confidence[i])}, margin ${share(images.margin[i])}, ${data.positions[images.position[i]] ?? ""}`,
      images.label[i] ? `labelled ${images.label[i]}` : images.part[i],
    ];
    if (images.duplicate[i] >= 0) lines.push(`near-duplicate, group ${images.duplicate[i]}`);
    $("one").replaceChildren(tile(i, 128, "span"), el("div", null, ...lines.map((line) => el("p", { textContent: line }))));
    delete $("one").firstChild.dataset.image;
  }
  // The image with the least `cost` of the way to it, (dx, dy) in pixels; where it is Infinity the image is no candidate.
  function nearest(x, y, cost = Math.hypot) {
    let best = -1, least = Infinity;
    points.forEach((i, k) => {
      const [px, py] = onScreen(k), way = cost(px - x, py - y, i);
      if (way < least) { best = i; least = way; }
    });
    return [best, least];
  }
  canvas.addEventListener("pointerdown", (event) => { grip = [event.offsetX, event.offsetY, ...centre, false]; });
  canvas.addEventListener("pointermove", (event) => {
    if (grip && event.buttons && zoom > 1) {
      grip[4] ||= Math.hypot(event.offsetX - grip[0], event.offsetY - grip[1]) > 4;
      centre = [grip[2] - (event.offsetX - grip[0]) / zoom / canvas.clientWidth, grip[3] - (event.offsetY - grip[1]) / zoom / canvas.clientHeight];
      draw();
      return;
    }
    const [i, distance] = nearest(event.offsetX, event.offsetY);
    if (i >= 0 && distance < 24) point(i);
  });
  canvas.addEventListener("click", (event) => {
    const moved = grip?.[4];
    grip = null;
    const [i, distance] = nearest(event.offsetX, event.offsetY);
    const own = place.get(images.cluster[i]);
    if (!moved && distance < 24 && own !== undefined) { point(i); go(root(own)); }
  });
  canvas.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const own = place.get(images.cluster[pointed]);
    if (event.key === "Enter" && own !== undefined) go(root(own));
    if (!ways[event.key] || !points.length) return;
    event.preventDefault();
    const from = where.has(pointed) ? onScreen(where.get(pointed)) : [canvas.clientWidth / 2, canvas.clientHeight / 2];
    const [dx, dy] = ways[event.key];
    const [i] = nearest(...from, (x, y, other) => {
      const along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
      return other === pointed || along <= 0 ? Infinity : along + 3 * aside;
    });
    if (i >= 0) point(i);
  });
  function closer(times, keep = pointed) {
    zoom = Math.min(40, Math.max(1, zoom * times));
    const k = where.get(keep);
    centre = zoom === 1 ? [0.5, 0.5] : k === undefined ? centre : [...at[k]];
    draw();
  }
  $("closer").addEventListener("click", () => closer(1.6));
  $("farther").addEventListener("click", () => closer(1 / 1.6));
  $("whole").addEventListener("click", () => closer(0));
  $("colour").addEventListener("change", () => { legend(); draw(); });
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  for (const kind of ["pointerover", "focusin"]) {
    document.addEventListener(kind, (event) => {
      const over = event.target.closest?.("[data-image]");
      if (over) point(+over.dataset.image);
    });
  }
  if (!points.length) canvas.closest("section").hidden = true;

  /* Saving, and going on with what was saved. */
  function clusters() {
    return categories.map((c, i) => {
      const said = state[i], whole = said.merge === null && !said.drop && !said.split;
      const entry = {
        cluster: c.cluster, name: whole ? nameOf(i) : c.name, known: c.known, size: c.size, cohesion: c.cohesion, separation: c.separation,
        nearest: c.nearest, expected_purity: c.expected_purity, confidence: c.confidence, exemplars: c.exemplars,
        merge: said.merge === null ? null : categories[said.merge].cluster, split: said.split && said.merge === null && !said.drop, drop: said.drop && said.merge === null,
      };
      return entry.split ? { ...entry, names: said.names.map(tidy) } : entry;
    });
  }
  function save() {
    const wrong = refresh();
    if (wrong >= 0) {
      go(wrong);
      return;
    }
    const text = `${JSON.stringify({ format: data.format, run: data.run, digest: data.digest, clusters: clusters() }, null, 1)}\n`;
    $("json").value = text;
    $("copied").textContent = "";
    $("saved-how").textContent = framed
      ? "This viewer lets no page save a file: copy the text into a file clusters.json, or download report.html and open it."
      : "Saved as clusters.json among your downloads. If your browser did not save it, copy the text.";
    if (!framed) {
      const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "clusters.json" });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      unsaved = false;
    }
    $("saved").showModal();
    $("copy").focus();
    $("json").scrollTop = 0;
  }
  function copy() {
    $("json").focus();
    $("json").select();
    // The older way first: the newer one is forbidden in a frame without an origin.
    const done = document.execCommand("copy");
    $("json").scrollTop = 0;
    $("copied").textContent = done ? "Copied." : "Press Ctrl+C (Cmd+C): the text is selected.";
    unsaved = unsaved && !done;
  }
  function take(text) {
    let given;
    const refuse = (why) => { told = why; calm = false; refresh(); };
    try { given = JSON.parse(text); } catch { return refuse("This file is no JSON: choose a clusters.json that this page saved."); }
    if (given?.format !== data.format || !Array.isArray(given.clusters)) return refuse("This file is no clusters.json: choose one that this page saved.");
    if (given.digest !== data.digest) return refuse("This clusters.json belongs to another run: open the report of that run.");
    const into = new Map(given.clusters.map((said) => [said.cluster, said.merge]));
    const end = (cluster) => {
      const seen = new Set();
      while (place.has(into.get(cluster)) && !seen.has(cluster)) { seen.add(cluster); cluster = into.get(cluster); }
      return place.get(cluster);
    };
    change(() => {
      state = fresh();
      for (const said of given.clusters) {
        const i = place.get(said.cluster);
        if (i === undefined) continue;
        const own = said.name === categories[i].name && !categories[i].known ? "" : String(said.name ?? "");
        const target = end(said.cluster), merge = target === i || target === undefined ? null : target;
        const names = [0, 1].map((half) => String(said.names?.[half] ?? ""));
        state[i] = { name: own, merge, split: merge === null && !!said.split, names, drop: merge === null && !!said.drop };
      }
    });
  }
  $("undo").addEventListener("click", undo);
  $("merge").addEventListener("click", () => merge([...chosen]));
  $("save").addEventListener("click", save);
  $("copy").addEventListener("click", copy);
  $("close").addEventListener("click", () => $("saved").close());
  $("show").addEventListener("change", arrange);
  $("order").addEventListener("change", arrange);
  $("open").addEventListener("click", () => $("load").click());
  $("load").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) take(await file.text());
    event.target.value = "";
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const typing = event.target.matches?.("input[type=text], textarea");
    if (event.key === "z" && !event.shiftKey && !typing) { event.preventDefault(); undo(); }
    if (event.key === "s") { event.preventDefault(); if (!$("saved").open) save(); }
  });
  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

  /* The head. */
  const pair = (words, shown) => [el("dt", { textContent: words }), el("dd", null, shown)];
  for (const [words, shown, meaning] of data.facts) {
    $("facts").append(el("div", null, ...pair(words, el("b", { textContent: shown }))));
    if (meaning) $("meanings").append(...pair(words, meaning));
  }
  for (const [words, shown] of data.more) $("meanings").append(...pair(words, shown));
  $("sample").textContent = count < data.total
    ? `This page shows a sample of ${number.format(count)} of the ${number.format(data.total)} images: the central ones of every category, and others drawn at random. assignments.csv holds all.`
    : "";
  function curve() {
    if (data.curve.length < 2) return;
    const svg = (tag, properties, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, one] of Object.entries(properties)) made.setAttribute(key, one);
      if (text !== undefined) made.textContent = text;
      return made;
    };
    const [w, h] = [260, 60], xs = data.curve.map((pair) => pair[0]), ys = data.curve.map((pair) => pair[1]);
    const x = (k) => w * unit(k, xs[0], xs[xs.length - 1]), y = (s) => h - h * unit(s, Math.min(...ys), Math.max(...ys));
    const label = `Score over the number of categories, from ${xs[0]} to ${xs[xs.length - 1]}; taken: ${data.n_classes}`;
    const drawn = svg("svg", { width: w, height: h + 14, viewBox: `0 0 ${w} ${h + 14}`, role: "img", "aria-label": label });
    drawn.append(svg("polyline", { points: data.curve.map(([k, s]) => `${x(k)},${y(s)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
      svg("line", { x1: x(data.n_classes), x2: x(data.n_classes), y1: 0, y2: h, stroke: value("--novel"), "stroke-width": 2 }),
      svg("text", { x: 0, y: h + 13, fill: "currentColor", "font-size": 11 }, xs[0]),
      svg("text", { x: w, y: h + 13, fill: "currentColor", "font-size": 11, "text-anchor": "end" }, xs[xs.length - 1]));
    $("curve").append(drawn, el("figcaption", { textContent: "how well each number of categories fits; the line: the one taken" }));
    $("curve").hidden = false;
  }
  curve();
  try {
    const kept = JSON.parse(localStorage.getItem(store));
    if (Array.isArray(kept) && kept.length === state.length && JSON.stringify(kept) !== JSON.stringify(state)) {
      past.push(JSON.stringify(state));
      state = kept;
      told = "What you said here last time is back; Undo takes it away.";
      calm = true;
    }
  } catch { /* as above */ }
  arrange();
  refresh();
})();
