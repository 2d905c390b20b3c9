/* The PNG for download, like that of captioner attend, drawn in the browser. */

const WIDTH = 1600; // in pixels, like all lengths below
const MARGIN = 40;
const GAP = 20;
const LABEL = 58; // below a panel, for its word
const LEGEND = 84; // below the photo, for the colour scale
const TITLE = 44;
const TITLE_LINE = 56;
const INK = "#1d1d1f";
const FAINT = "#66666c";
const FONT = 'Inter, "Helvetica Neue", Arial, "Liberation Sans", sans-serif';

/** The caption, the photo, and a panel for each word: the photo takes two columns and two rows, a panel one of each. */
export async function toPng(data, photoUrl) {
  const image = new Image();
  image.src = photoUrl;
  await image.decode();
  const { panel, down, head, lines, canvas, corner } = layout(data);
  const page = canvas.getContext("2d");
  page.fillStyle = "#ffffff";
  page.fillRect(0, 0, canvas.width, canvas.height);
  lines.forEach((line, i) => write(page, line, MARGIN, MARGIN + 44 + TITLE_LINE * i, TITLE, INK, 600));
  const [wide, high] = [2 * panel + GAP, 2 * down + LABEL - LEGEND];
  const across = place(page, image, MARGIN, head, wide, high);
  const paint = data.attention && painter(image, data, panel);
  if (data.attention) legend(page, data.attention.top, MARGIN, head + high + 10, across);
  data.words.forEach((entry, i) => {
    const [x, y] = corner(i);
    if (paint) place(page, paint(data.attention.maps[i]), x, y, panel, down);
    write(page, entry.word, x, y + down + 24, 22, INK, 500, panel);
    write(page, window.captionerPage.percent(Math.exp(entry.log_probability)), x, y + down + 45, 16, FAINT, 400, panel);
  });
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

/** The layout: the canvas, the size of a panel, the lines of the caption, their end, and the panels' corners. */
function layout({ caption, words, photo }) {
  const shape = photo.height / photo.width;
  const columns = shape > 1.1 ? 7 : shape > 0.6 ? 5 : 4;
  const inside = WIDTH - 2 * MARGIN;
  const panel = (inside + GAP) / columns - GAP;
  const down = Math.min(Math.max(panel * shape, 24), 2 * panel);
  const lines = wrapped(caption, inside);
  const head = MARGIN + TITLE_LINE * lines.length + 12;
  const rows = Math.max(2, Math.ceil((words.length + 4) / columns));
  const height = Math.round(head + rows * (down + LABEL) + MARGIN / 2);
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height });
  const beside = 2 * (columns - 2); // panels to the photo's right
  const corner = (i) => {
    const [row, column] = i < beside
      ? [Math.floor(i / (columns - 2)), 2 + (i % (columns - 2))]
      : [2 + Math.floor((i - beside) / columns), (i - beside) % columns];
    return [MARGIN + column * (panel + GAP), head + row * (down + LABEL)];
  };
  return { panel, down, head, lines, canvas, corner };
}

/** Draws a picture as large as fits a place, in its top left corner; returns its width. */
function place(page, picture, x, y, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  page.drawImage(picture, x, y, picture.width * scale, picture.height * scale);
  return picture.width * scale;
}

/** A function from a map to a canvas that shows it over the photo. */
function painter(image, { photo, attention }, width) {
  const { heatMap, lightness, overlay } = window.captionerPage;
  const [across, down] = [Math.round(width), Math.max(1, Math.round((width * photo.height) / photo.width))];
  const canvas = Object.assign(document.createElement("canvas"), { width: across, height: down });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, across, down);
  const light = lightness(context.getImageData(0, 0, across, down).data);
  const box = attention.box.map((edge, i) => (i % 2 ? (edge * down) / photo.height : (edge * across) / photo.width));
  return (weights) => {
    const heat = heatMap(weights, attention.grid, across, down, box);
    context.putImageData(new ImageData(overlay(light, heat, attention.top), across, down), 0, 0);
    return canvas;
  };
}

/** The colour scale over grey, with its numbers. */
function legend(page, top, x, y, width) {
  const light = new Float32Array(256).fill(120 / 255);
  const ramp = light.map((_, i) => (i / 255) ** 2 * top); // even in levels
  const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  canvas.getContext("2d").putImageData(new ImageData(window.captionerPage.overlay(light, ramp, top), 256, 1), 0, 0);
  page.drawImage(canvas, x, y, width, 10);
  [[0, "left"], [0.5, "center"], [1, "right"]].forEach(([place, align]) => {
    page.textAlign = align;
    write(page, place ? window.captionerPage.percent(place ** 2 * top) : "0", x + place * width, y + 30, 16, FAINT, 400);
  });
  page.textAlign = "left";
  write(page, "attention per region of the grid", x, y + 52, 16, FAINT, 400);
  write(page, "below a word: its probability", x, y + 74, 16, FAINT, 400);
}

function write(page, text, x, y, size, colour, weight, widest) {
  page.font = `${weight} ${size}px ${FONT}`;
  page.fillStyle = colour;
  page.fillText(text, x, y, widest);
}

/** The lines of a title. */
function wrapped(text, widest) {
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `600 ${TITLE}px ${FONT}`;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (ruler.measureText(longer).width <= widest || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
