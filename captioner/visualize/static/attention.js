/* The interactive view of a caption: a photo, the words of its caption, and where the model looked for each. The HTML
 * page, notebooks and the web page share this script and attention.css. It needs nothing else, no network, and does not
 * touch the rest of the document. Python makes its data in captioner.visualize.view.
 *
 * captionerPage.show(container, data, photoUrl, options) -> { select(index | null), destroy() }
 *
 *   container  an element, whose content is replaced. Call show again (same container) for another caption.
 *   data       {"caption": "a dog runs", "log_probability": -3.2, "finished": true,
 *               "confidence": 0.63,                                // that the caption is right; null if unknown
 *               "words": [{"word": "dog", "log_probability": -0.4,
 *                          "alternatives": [{"word": "cat", "log_probability": -1.9}, ...]}, ...],   // may be []
 *               "photo": {"width": 640, "height": 427},            // upright, in pixels of the original
 *               "attention": {"grid": [h, w],                      // rows, columns
 *                             "box": [left, top, right, bottom],   // the part of the photo under the grid, in pixels
 *                             "top": 0.31,                         // weight at the top of the colour scale
 *                             "maps": [[h * w weights, row by row], ...],  // one per word
 *                             "entropy": [nats, ...], "movement": [shares, one fewer], "entropy_share": 0.8,
 *                             "mean_movement": 0.2, "coverage": 0.7,       // all or none of them
 *                             "warning": null}                     // or a sentence: why the maps carry no information
 *                            or null for a model without attention,
 *               "evidence": {"grid", "box", "top", "maps"}}          // optional; shown in place of the attention: how much
 *                            the log-probability of the word falls without each region, in nats
 *   photoUrl   of the upright photo at any scale: data:, blob: or same-origin (its pixels are read). Browsers
 *              apply a JPEG's EXIF orientation, so the bytes of the file may be shown unchanged.
 *   options    all optional:
 *                opacity   of the maps, 0..1 (1)
 *                selected  index of the word selected at first (null: the bare photo)
 *                reveal    milliseconds per word: words appear one by one with their maps, until a person acts
 *                          (0: all at once; also for those who prefer reduced motion)
 *                onSelect  function (index | null), called when another word, or no word, is shown
 *
 *   select     shows the map and the alternatives of a word and tells screen readers; null shows the bare photo.
 *   destroy    empties the container and removes all listeners; show calls it for what it replaces.
 *
 * Wrong data throw a TypeError before anything is replaced. If the photo does not load, words, numbers and a message
 * are shown. Also exported, as in Python: heatMap, level, lightness, overlay, percent, place.
 *
 * Styles: everything is inside one .captioner element; its custom properties (--ink, --faint, --paper, --rule,
 * --accent in attention.css) follow prefers-color-scheme, and a page may set them. */
"use strict";

(() => {
  // As in heatmap.py: violet, magenta, orange, pale yellow.
  const HEAT_COLOURS = [[44, 17, 96], [120, 28, 109], [188, 55, 84], [237, 105, 37], [251, 166, 47], [253, 231, 140]];
  const STEPS = 4095; // levels of the colour scale in the tables below
  const STAGE_PIXELS = [480, 900]; // the longest side of the map over the photo: at least, at most
  const THUMBNAIL_PIXELS = 160;
  const FADE = 220; // milliseconds from one map to the next
  const DWELL = 60; // milliseconds that the mouse rests on a word before its map is shown
  const UNSURE = 0.5; // a confidence below it
  const OPACITY = 1; // of the maps at first, as in the legend

  // Heat maps: heatmap.py in JavaScript. A test compares the two pixel by pixel.

  /** One map (h * w weights) over width * height pixels, zero outside the grid: cubic convolution of square roots. */
  function heatMap(weights, [rows, columns], width, height, [left, top, right, bottom]) {
    const across = taps(width, columns, left, right);
    const down = taps(height, rows, top, bottom);
    const roots = Float32Array.from(weights, (weight) => Math.sqrt(Math.max(weight, 0))); // evidence may be negative
    const wide = new Float32Array(rows * width); // each row of the grid, stretched
    for (let row = 0; row < rows; row++) {
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let k = 4 * x; k < 4 * x + 4; k++) sum += across.weight[k] * roots[row * columns + across.region[k]];
        wide[row * width + x] = sum;
      }
    }
    const heat = new Float32Array(width * height);
    for (let y = 0; y < height; y++) {
      const [a, b, c, d] = down.weight.subarray(4 * y, 4 * y + 4);
      const [i, j, k, l] = down.region.subarray(4 * y, 4 * y + 4).map((row) => row * width);
      for (let x = 0; x < width; x++) {
        heat[y * width + x] = Math.max(a * wide[i + x] + b * wide[j + x] + c * wide[k + x] + d * wide[l + x], 0) ** 2;
      }
    }
    return heat;
  }

  /** For the centre of each pixel, the four nearest regions and their weights (Keys 1981, a = -1/2). */
  function taps(pixels, regions, start, stop) {
    const weight = new Float32Array(4 * pixels);
    const region = new Int32Array(4 * pixels);
    for (let pixel = 0; pixel < pixels; pixel++) {
      const share = (pixel + 0.5 - start) / (stop - start);
      const first = Math.floor(share * regions - 0.5);
      const t = share * regions - 0.5 - first;
      const near = [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
      ];
      for (let k = 0; k < 4; k++) {
        weight[4 * pixel + k] = share < 0 || share > 1 ? 0 : near[k];
        region[4 * pixel + k] = Math.min(Math.max(first - 1 + k, 0), regions - 1);
      }
    }
    return { weight, region };
  }

  /** Weights 0..top as levels 0..1 of the colour scale. */
  const level = (weight, top) => Math.sqrt(Math.min(Math.max(weight / top, 0), 1));

  /** For STEPS + 1 levels: their opacity over the photo, and their colour times the opacity. */
  const STRENGTH = new Float32Array(STEPS + 1);
  const COLOUR = new Float32Array(3 * (STEPS + 1));
  for (let step = 0; step <= STEPS; step++) {
    STRENGTH[step] = 0.9 * (step / STEPS) ** 0.9;
    const place = (Math.round((255 * step) / STEPS) / 255) * (HEAT_COLOURS.length - 1);
    const below = Math.min(Math.floor(place), HEAT_COLOURS.length - 2);
    for (let k = 0; k < 3; k++) {
      const [from, to] = [HEAT_COLOURS[below][k], HEAT_COLOURS[below + 1][k]];
      COLOUR[3 * step + k] = (from + (to - from) * (place - below)) * STRENGTH[step];
    }
  }

  /** The lightness of each pixel of RGBA data, 0..1; a dark photo is brightened. */
  function lightness(rgba) {
    const grey = new Float32Array(rgba.length / 4);
    for (let i = 0; i < grey.length; i++) {
      grey[i] = 0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2];
    }
    const sorted = Float32Array.from(grey).sort();
    const place = 0.98 * (sorted.length - 1);
    const below = Math.floor(place);
    const high = sorted[below] + ((sorted[below + 1] ?? sorted[below]) - sorted[below]) * (place - below);
    const gain = Math.min(Math.max(200 / Math.max(high, 1), 1), 2.5);
    return grey.map((value) => Math.min((value * gain) / 255, 1));
  }

  /** The photo in muted grey under a heat map: RGBA. */
  function overlay(light, heat, top) {
    const rgba = new Uint8ClampedArray(4 * light.length);
    for (let i = 0; i < light.length; i++) {
      const step = Math.round(STEPS * level(heat[i], top));
      const photo = (30 + 150 * light[i]) * (1 - STRENGTH[step]);
      const shade = 0.7 + 0.3 * light[i];
      for (let k = 0; k < 3; k++) rgba[4 * i + k] = photo + COLOUR[3 * step + k] * shade;
      rgba[4 * i + 3] = 255;
    }
    return rgba;
  }

  /** The peak of a map in words: "mostly at the centre left"; "broadly, mainly" if it is below six times the uniform weight. */
  function place(weights, [rows, columns], [left, top, right, bottom], photo) {
    let peak = 0;
    weights.forEach((weight, region) => { if (weight > weights[peak]) peak = region; });
    if (weights[peak] * weights.length < 2) return "at the whole photo";
    const x = (left + ((peak % columns + 0.5) / columns) * (right - left)) / photo.width;
    const y = (top + ((Math.floor(peak / columns) + 0.5) / rows) * (bottom - top)) / photo.height;
    if (x < 0 || x > 1 || y < 0 || y > 1) return "mostly outside the photo";
    const third = (share, names) => names[Math.min(Math.floor(3 * share), 2)];
    const names = [third(y, ["top", "centre", "bottom"]), third(x, ["left", "centre", "right"])];
    const how = weights[peak] * weights.length < 6 ? "broadly, mainly" : "mostly";
    return `${how} at the ${names[0] === names[1] ? "centre" : names.join(" ")}`;
  }

  /** A probability in percent: 63 %, 3.4 %, <0.1 %. */
  function percent(share) {
    if (share < 0.0005) return "<0.1\u00a0%";
    return `${share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)}\u00a0%`;
  }

  const probability = (entry) => Math.exp(Math.min(entry.log_probability, 0));

  /** The statistics of a word's map; for index null, of the whole caption. */
  function figures(attention, index, words) {
    if (!attention?.entropy?.length) return "";
    const { entropy, movement, grid, entropy_share: evenness, mean_movement: moved, coverage } = attention;
    if (index === null) {
      return `Whole caption: entropy ${percent(evenness)} of the maximum, ${percent(moved)} of the attention moves per word, `
        + `coverage ${percent(coverage)} of the grid.`;
    }
    const even = percent(entropy[index] / (Math.log(grid[0] * grid[1]) || 1));
    const since = index ? `, ${percent(movement[index - 1])} moved since “${words[index - 1].word}”` : "";
    return `entropy ${even} of the maximum${since}`;
  }

  // Elements

  /** make("p.hint", {textContent: "..."}, children...): properties; attributes if the name has a hyphen or is role. */
  function make(what, properties = {}, ...children) {
    const [name, ...classes] = what.split(".");
    const element = document.createElement(name);
    element.className = classes.join(" ");
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role") element.setAttribute(key, value);
      else element[key] = value;
    }
    element.append(...children);
    return element;
  }

  function canvasOf(what, width, height) {
    const [across, down] = [Math.max(1, Math.round(width)), Math.max(1, Math.round(height))];
    return make(what, { width: across, height: down, "aria-hidden": "true" });
  }

  /** Draws maps over a photo on a canvas: a function of (weights, top). The photo's light is computed once. */
  function painter(canvas, image, photo, { grid, box }) {
    const { width, height } = canvas;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    const light = lightness(context.getImageData(0, 0, width, height).data);
    const [across, down] = [width / photo.width, height / photo.height];
    const here = [box[0] * across, box[1] * down, box[2] * across, box[3] * down];
    return (weights, top) => {
      const heat = heatMap(weights, grid, width, height, here);
      context.putImageData(new ImageData(overlay(light, heat, top), width, height), 0, 0);
    };
  }

  /** Where the evidence for a word is. */
  function placeOfEvidence(weights, grid, box, photo) {
    const positive = weights.map((weight) => Math.max(weight, 0));
    const sum = positive.reduce((total, weight) => total + weight, 0);
    if (sum < 0.01) return "no evidence";
    return `evidence ${place(positive.map((weight) => weight / sum), grid, box, photo)}`;
  }

  /** The colour scale over grey, with its numbers. */
  function legend(top, isEvidence) {
    const canvas = canvasOf("canvas.ramp", 256, 1);
    const light = new Float32Array(256).fill(120 / 255);
    const ramp = Float32Array.from(light, (_, x) => (x / 255) ** 2 * top); // even in levels
    canvas.getContext("2d").putImageData(new ImageData(overlay(light, ramp, top), 256, 1), 0, 0);
    const amount = (weight) => (isEvidence ? `${Number(weight.toPrecision(2))}\u00a0nats` : percent(weight));
    const numbers = [0, top / 4, top].map((weight) => make("span", { textContent: weight ? amount(weight) : "0" }));
    const label = isEvidence ? "evidence: drop in the word's log-probability without the region (rises are not shown)"
      : "attention per region of the grid";
    return make("div.legend", {}, canvas, make("div.numbers", {}, ...numbers), make("p", { textContent: label }));
  }

  /** The probability that the caption is right, with a warning if it is more probably wrong. */
  function confidenceOf(confidence) {
    const text = `confidence ${percent(confidence)}`;
    return confidence < UNSURE ? make("p.warning", { textContent: `Unsure: ${text}` })
      : make("p.figures.confidence", { textContent: text });
  }

  function check(container, data, photoUrl) {
    const maps = (data?.evidence ?? data?.attention)?.maps;
    if (!(container instanceof Element)) throw new TypeError("captionerPage.show: container is not an element.");
    if (!Array.isArray(data?.words) || !data.photo) throw new TypeError("captionerPage.show: data is not a caption.");
    if (typeof photoUrl !== "string") throw new TypeError("captionerPage.show: photoUrl is not a string.");
    if (maps && maps.length !== data.words.length) {
      throw new TypeError(`captionerPage.show: ${maps.length} maps for ${data.words.length} words.`);
    }
  }

  /** The words as buttons with their probabilities; screen readers also hear where each word looks. */
  function wordButtons(words, where) {
    return words.map((entry, i) => {
      const share = percent(probability(entry));
      return make("button.word", {
        type: "button",
        tabIndex: i ? -1 : 0, // one stop of the Tab key; arrow keys move inside
        "aria-pressed": "false",
        "aria-label": [entry.word, share, where[i]].filter(Boolean).join(", "),
      }, make("span.text", { textContent: entry.word }), make("span.share", { textContent: share, title: "probability" }));
    });
  }

  /** The texts about one word, beside the photo and on it. write(index) shows a word, write(null) none. */
  function stepView(words, where, attention, isEvidence) {
    const element = make(words.some((entry) => entry.alternatives?.length) ? "div.step.long" : "div.step");
    const badge = make("figcaption.badge", { "aria-hidden": "true" });
    const map = attention && !isEvidence ? "Attention is computed before the word is chosen, so the map is the same for all words at this step." : "";

    function writeBadge(word, share) {
      badge.hidden = word === null;
      badge.replaceChildren(make("b", { textContent: word }), ` ${share}`);
    }

    function write(index) {
      if (index === null) {
        const seen = isEvidence ? "see the evidence for it and" : attention ? "see where the model looked for it and" : "see";
        const hint = `Hover over or tap a word, or use the arrow keys, to ${seen} its alternatives.`;
        writeBadge(null);
        element.replaceChildren(make("p.hint", { textContent: hint }),
          make("p.figures", { textContent: figures(attention, null) }));
        return;
      }
      const { word, alternatives } = words[index];
      const share = percent(probability(words[index]));
      writeBadge(word, share);
      element.replaceChildren(make("p.chosen", {}, make("b", { textContent: word }), ` ${share}`),
        make("p.where", { textContent: where[index] ?? "" }),
        make("p.figures", { textContent: figures(attention, index, words) }));
      if (!alternatives?.length) return;
      const note = make("p.note", { textContent: map });
      const rows = alternatives.map((other) => otherRow(other, (on, theirs) => {
        writeBadge(on ? `${other.word}?` : word, on ? theirs : share);
        note.textContent = on ? `“${other.word}” had ${theirs} at this step. ${map}` : map;
      }));
      element.append(make("p.label", { textContent: "alternatives" }),
        make("ol.others", { role: "list", "aria-label": "Other words at this step" }, ...rows), note);
    }

    /** A word that was not chosen; preview(on, share) is called when it is hovered or focused, and when that ends. */
    function otherRow(other, preview) {
      const share = percent(probability(other));
      const bar = make("span.bar");
      bar.style.setProperty("--share", probability(other));
      const row = make("button.other", {
        type: "button", title: map, "aria-label": `${other.word}, ${share}, not chosen`,
      }, make("span.text", { textContent: other.word }), bar, make("span.share", { textContent: share }));
      const turn = (on) => { row.classList.toggle("on", on); preview(on, share); };
      row.addEventListener("pointerenter", () => turn(true));
      row.addEventListener("pointerleave", () => turn(document.activeElement === row));
      row.addEventListener("focus", () => turn(true));
      row.addEventListener("blur", () => turn(false));
      return make("li", {}, row);
    }

    return { element, badge, write };
  }

  /** The canvas over the photo. turnTo(index) fades to the map of a word, turnTo(null) shows the bare photo. */
  function mapView(photo, attention, opacity, calm) {
    const longest = Math.max(photo.width, photo.height);
    const scale = Math.min(Math.max(longest, STAGE_PIXELS[0]), STAGE_PIXELS[1]) / longest;
    const canvas = canvasOf("canvas.map", photo.width * scale, photo.height * scale);
    let index = null;
    let paint = null; // set once the photo has loaded
    let painted = null; // the weights that the canvas shows, to fade from
    let frame = 0;
    canvas.style.opacity = 0;

    function draw() {
      cancelAnimationFrame(frame);
      canvas.style.opacity = index === null ? 0 : opacity;
      if (index === null) painted = null;
      if (!paint || index === null) return;
      const [from, target, start] = [painted, attention.maps[index], performance.now()];
      const blend = (now) => {
        const t = from && !calm ? Math.min(Math.max((now - start) / FADE, 0), 1) : 1;
        painted = t < 1 ? target.map((weight, region) => from[region] + (weight - from[region]) * t) : target;
        paint(painted, attention.top);
        if (t < 1) frame = requestAnimationFrame(blend);
      };
      blend(start);
    }

    return {
      canvas,
      turnTo(other) { index = other; draw(); },
      setOpacity(value) { opacity = value; canvas.style.opacity = index === null ? 0 : opacity; },
      load(image) { paint = painter(canvas, image, photo, attention); draw(); },
      stop() { cancelAnimationFrame(frame); },
    };
  }

  /** A small picture of a word's map. */
  function thumbnailOf(image, photo, attention, word, i) {
    const scale = THUMBNAIL_PIXELS / Math.max(photo.width, photo.height);
    const canvas = canvasOf("canvas", photo.width * scale, photo.height * scale);
    painter(canvas, image, photo, attention)(attention.maps[i], attention.top);
    return make("div.thumbnail", {}, canvas, make("span", { textContent: word }));
  }

  const showing = new WeakMap(); // container -> the handle of its content

  function show(container, data, photoUrl, options = {}) {
    check(container, data, photoUrl);
    showing.get(container)?.destroy();
    const { words, photo } = data;
    const isEvidence = Boolean(data.evidence);
    const attention = data.evidence ?? data.attention; // the maps that are shown
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const opacity = options.opacity ?? OPACITY;
    const listeners = new AbortController();
    const listen = (element, type, act) => element.addEventListener(type, act, { signal: listeners.signal });
    let shown = null; // the word whose map is on the photo
    let pinned = null; // the word that was tapped or focused; shown again after others were hovered
    let revealing = 0; // a timer

    const locate = isEvidence ? placeOfEvidence : (...map) => `looks ${place(...map)}`;
    const where = words.map((_, i) => attention && locate(attention.maps[i], attention.grid, attention.box, photo));
    const buttons = wordButtons(words, where);
    const list = make("ol.words", { role: "list", "aria-label": "Words; left and right arrow keys move between them" },
      ...buttons.map((button) => make("li", {}, button)));
    if (!data.finished) list.append(make("li.unfinished", { textContent: "…", title: "cut at the maximum length" }));
    const step = stepView(words, where, attention, isEvidence);
    const map = attention && mapView(photo, attention, opacity, calm);
    const image = make("img", { alt: `The photo: ${data.caption}` });
    const stage = make("figure.stage", {}, image, ...(map ? [map.canvas] : []));
    if (photo.width < 4 * photo.height) stage.append(step.badge); // it would hide a panorama
    const side = make("div.side", {}, step.element);
    const strip = make("div.strip", { "aria-hidden": "true" }); // for pointers; the words have the same content
    const status = make("p.status", { role: "status" });
    const root = make("section.captioner", { "aria-label": `Caption: ${data.caption}` },
      list, make("div.body", {}, stage, side), strip, status);
    root.style.setProperty("--shape", photo.width / photo.height);
    root.style.setProperty("--widest", `${Math.max(2 * photo.width, 360)}px`); // tiny photos are not enlarged much

    if (data.confidence != null) side.prepend(confidenceOf(data.confidence));
    if (attention?.warning) side.prepend(make("p.warning", { textContent: `Warning: ${attention.warning}` }));
    if (map) {
      const slider = make("input", { type: "range", min: 0, max: 100, value: Math.round(100 * opacity) });
      listen(slider, "input", () => map.setOpacity(slider.value / 100));
      side.append(legend(attention.top, isEvidence), make("label.slider", {}, make("span", { textContent: "opacity" }), slider));
    } else if (words.length) {
      const why = "This model has no attention, so there are no maps.";
      side.append(make("p.note", { textContent: why }));
    }

    /** Announce a text to screen readers, which need a change. */
    function say(text) {
      status.textContent = "";
      setTimeout(() => { status.textContent = text; }, 50);
    }

    /** If the strip scrolls: bring a thumbnail to its middle, unless the pointer is over the strip. */
    function scrollStrip(thumbnail) {
      if (!thumbnail || strip.scrollWidth <= strip.clientWidth || strip.matches(":hover")) return;
      const left = thumbnail.offsetLeft - (strip.clientWidth - thumbnail.clientWidth) / 2;
      strip.scrollTo({ left, behavior: calm ? "instant" : "smooth" });
    }

    function turnTo(index) {
      if (index === shown) return;
      shown = index;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === index));
      [...strip.children].forEach((each, i) => each.classList.toggle("on", i === index));
      scrollStrip(strip.children[index]);
      step.write(index);
      map?.turnTo(index);
      options.onSelect?.(index);
    }

    function pin(index) {
      pinned = index;
      if (index !== null) buttons.forEach((button, i) => { button.tabIndex = i === index ? 0 : -1; });
      turnTo(index);
    }

    function select(index) {
      if (index !== null && !(index in words)) throw new RangeError(`no word ${index} in ${words.length} words.`);
      stopReveal();
      pin(index);
      say(index === null ? data.caption : buttons[index].getAttribute("aria-label"));
    }

    /** A hovered word stays until another is hovered; a tapped word stays until it is tapped again. */
    function follow(element, i) {
      let again = false; // whether it was pinned before this tap
      let dwell = 0; // a timer: a pointer that only passes over a word does not select it
      listen(element, "pointerenter", (event) => {
        if (event.pointerType === "mouse") dwell = setTimeout(() => { stopReveal(); turnTo(i); }, DWELL);
      });
      listen(element, "pointerleave", () => {
        clearTimeout(dwell);
        if (pinned !== null) turnTo(pinned);
      });
      listen(element, "pointerdown", () => {
        clearTimeout(dwell);
        again = pinned === i;
      });
      listen(element, "click", () => { stopReveal(); pin(again ? null : i); again = false; });
    }

    /** Move between words by key. Without a focus only left and right do; the other keys scroll the page. */
    function moveFocus(event) {
      const free = event.target === document.body && words.length > 0;
      const [at, last] = [free ? shown ?? -1 : buttons.indexOf(event.target), words.length - 1];
      const sideways = { ArrowLeft: at - 1, ArrowRight: at + 1 };
      const to = (free ? sideways : { ...sideways, ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last })[event.key];
      if ((at < 0 && !free) || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      buttons[Math.min(Math.max(to, 0), last)].focus();
    }

    function unsaid(from) {
      [...buttons, ...strip.children].forEach((each, i) => each.classList.toggle("unsaid", i % words.length >= from));
    }

    function reveal(count) {
      unsaid(count);
      if (count > 0) turnTo(count - 1);
      const next = () => (count < words.length ? reveal(count + 1) : (stopReveal(), pin(options.selected ?? null)));
      revealing = setTimeout(next, options.reveal);
    }

    function stopReveal() {
      if (!revealing) return;
      clearTimeout(revealing);
      revealing = 0;
      unsaid(words.length);
    }

    function destroy() {
      stopReveal();
      map?.stop();
      listeners.abort();
      root.remove();
      if (showing.get(container) === handle) showing.delete(container);
    }

    buttons.forEach((button, i) => {
      follow(button, i);
      listen(button, "focus", () => { if (button.matches(":focus-visible")) { stopReveal(); pin(i); } });
    });
    listen(document, "keydown", moveFocus);
    listen(root, "keydown", (event) => { if (event.key === "Escape") { stopReveal(); pin(null); } });
    listen(image, "load", () => {
      if (!map || !words.length) return;
      map.load(image);
      words.forEach((entry, i) => {
        const thumbnail = thumbnailOf(image, photo, attention, entry.word, i);
        thumbnail.classList.toggle("on", i === shown);
        thumbnail.classList.toggle("unsaid", buttons[i].classList.contains("unsaid"));
        follow(thumbnail, i);
        strip.append(thumbnail);
      });
    });
    listen(image, "error", () => {
      stage.replaceChildren(make("p.note", { textContent: "The photo could not be shown." }));
    });

    const handle = { select, destroy };
    showing.set(container, handle);
    container.replaceChildren(root);
    image.src = photoUrl;
    step.write(null);
    say(`Caption: ${data.caption}${data.finished ? "" : ", unfinished"}`);
    if (options.reveal > 0 && !calm && words.length) reveal(0);
    else if (options.selected != null) pin(options.selected);
    return handle;
  }

  window.captionerPage = { show, heatMap, level, lightness, overlay, percent, place };
})();
