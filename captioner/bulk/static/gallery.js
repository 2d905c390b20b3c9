// The gallery. Only the cards in sight, and those a screen above and below, are in the document.
const photos = JSON.parse(document.getElementById("photos").textContent); // [path, text, picture, kind, confidence]
const UNSURE = "(unsure)";
const texts = photos.map(([path, text, , kind]) => `${text} ${kind === "unsure" ? UNSURE : ""} ${path}`.toLowerCase());
const main = document.querySelector("main");
const field = document.querySelector("input");
const count = document.querySelector("output");
const cards = new Map(); // by position among the photos that are shown
let shown;
let across, columns, width, height; // of the whole, and of a card with its margins, in pixels

function card(position) {
  const [path, text, picture, kind, confidence] = photos[shown[position]];
  const figure = document.createElement("figure");
  figure.title = confidence === null ? path : `${path}\nconfidence ${confidence.toFixed(2)}`;
  figure.className = kind;
  if (kind !== "error") {
    const frame = figure.appendChild(document.createElement(picture && !picture.startsWith("data:") ? "a" : "div"));
    frame.className = "frame";
    if (frame.tagName === "A") frame.href = picture;
    if (picture) Object.assign(frame.appendChild(new Image()), { alt: "", decoding: "async", src: picture });
    else frame.textContent = path;
  }
  const caption = figure.appendChild(document.createElement("figcaption"));
  caption.textContent = text;
  if (kind === "unsure") {
    caption.append(" ");
    caption.appendChild(document.createElement("small")).textContent = UNSURE;
  }
  const x = (position % columns) * width, y = Math.floor(position / columns) * height;
  Object.assign(figure.style, { transform: `translate(${x}px, ${y}px)`, width: `${width}px`, height: `${height}px` });
  return figure;
}

function draw() {
  const top = scrollY - main.offsetTop;
  const first = Math.max(0, Math.floor((top - innerHeight) / height) * columns);
  const last = Math.min(shown.length, Math.ceil((top + 2 * innerHeight) / height) * columns);
  for (const [position, figure] of cards) {
    if (position < first || position >= last) {
      figure.remove();
      cards.delete(position);
    }
  }
  let next = main.firstElementChild;
  for (let position = first; position < last; position++) {
    if (cards.has(position)) {
      next = cards.get(position).nextElementSibling;
    } else {
      cards.set(position, card(position));
      main.insertBefore(cards.get(position), next);
    }
  }
}

function lay() {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  across = main.clientWidth;
  columns = Math.max(2, Math.floor(across / (14 * rem)));
  width = across / columns;
  height = Math.round(0.75 * width + 5 * rem);
  main.style.height = `${Math.ceil(shown.length / columns) * height}px`;
  main.replaceChildren();
  cards.clear();
  draw();
}

function resize() {
  const first = Math.round((scrollY - main.offsetTop) / height) * columns;
  lay();
  if (first > 0) scrollTo(0, main.offsetTop + Math.floor(first / columns) * height); // the same photos stay in sight
}

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [...photos.keys()].filter((i) => words.every((word) => texts[i].includes(word)));
  const [some, all] = [shown.length, photos.length].map((number) => number.toLocaleString("en"));
  count.textContent = `${words.length ? `${some} of ${all}` : all} photos`;
  scrollTo(0, 0);
  lay();
}

field.addEventListener("input", search);
addEventListener("scroll", draw, { passive: true });
addEventListener("resize", () => (main.clientWidth === across ? draw() : resize()));
search(); // a browser may keep the field's text when the page is loaded again
