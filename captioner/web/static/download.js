/* Downloads: the caption as JSON, and as a self-contained HTML page. The picture is drawn in picture.js. */

/** Downloads the bytes as a file. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const toJson = (data) => new Blob([`${JSON.stringify(data)}\n`], { type: "application/json" });

/** The HTML page of captioner attend: the server's empty page, with this caption filled in. */
export async function toHtml(data, photoUrl) {
  const response = await fetch("/static/report.html");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const photo = await dataUrl(await (await fetch(photoUrl)).blob());
  const caption = data.caption.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const places = [
    [/(<title>).*?(?=<\/title>)/, caption],
    [/(<main id="caption"><p>).*?(?=<\/p>)/, caption],
    [/(<script type="application\/json" id="data">).*?(?=<\/script>)/, JSON.stringify({ data, photo }).replaceAll("<", "\\u003c")],
  ];
  let page = await response.text();
  for (const [place, content] of places) {
    if (!place.test(page)) throw new Error(`the server's page has no ${place}`);
    page = page.replace(place, (_, before) => before + content);
  }
  return new Blob([page], { type: "text/html" });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
