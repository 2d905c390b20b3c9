/* The API documentation, from the server's openapi.json, without third-party scripts. */

const element = (id) => document.getElementById(id);

function make(name, text = "", ...children) {
  const made = document.createElement(name);
  made.append(text, ...children);
  return made;
}

function table(heads, rows) {
  const body = rows.map((row) => make("tr", "", ...row.map((cell) => make("td", "", cell))));
  const head = make("tr", "", ...heads.map((text) => make("th", text)));
  const frame = make("div", "", make("table", "", make("thead", "", head), make("tbody", "", ...body)));
  frame.className = "table";
  return frame;
}

/** A schema in a few words: "integer, 1 to 20", "beam or sample". */
function words(schema, all) {
  if (schema.$ref) return words(all[schema.$ref.split("/").at(-1)], all);
  if (schema.anyOf) return schema.anyOf.filter((each) => each.type !== "null").map((each) => words(each, all)).join(" or ");
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.type === "array") return `list of ${words(schema.items, all)}`;
  if (schema.properties && schema.title) return `object ${schema.title}`;
  const [least, most] = [schema.minimum ?? schema.exclusiveMinimum, schema.maximum ?? schema.exclusiveMaximum];
  const range = least === undefined ? "" : `, ${schema.exclusiveMinimum === undefined ? "" : "above "}${least} to ${most}`;
  return `${schema.format === "binary" ? "bytes" : schema.type}${range}`;
}

function describe(path, method, route, all) {
  const title = make("h2", "", make("code", `${method.toUpperCase()} ${path}`), ` ${route.summary ?? ""}`);
  const section = make("section", "", title);
  section.className = "route";
  if (route.description) section.append(make("p", route.description));
  if (route.requestBody) {
    section.append(make("h3", "Body"), make("p", route.requestBody.description), table(["type", "description"],
      Object.entries(route.requestBody.content).map(([type, { schema }]) => [
        make("code", type),
        schema.properties ? `field ${Object.keys(schema.properties).join(", ")}: the image file` : "the image file itself",
      ])));
  }
  if (route.parameters) {
    section.append(make("h3", "Query parameters"), table(["name", "value", "description"], route.parameters.map(
      (each) => [make("code", each.name), words(each.schema, all), each.description ?? each.schema.description ?? ""],
    )));
  }
  const answers = Object.entries(route.responses).map(([status, { description, content }]) => {
    const schema = content?.["application/json"]?.schema;
    return [make("code", status), schema ? words(schema, all) : "", description];
  });
  section.append(make("h3", "Responses"), table(["status", "JSON", "when"], answers));
  return section;
}

function describeObject(name, schema, all) {
  const rows = Object.entries(schema.properties).map(
    ([field, each]) => [make("code", field), words(each, all), each.description ?? ""],
  );
  const section = make("section", "", make("h2", `Object ${name}`), table(["field", "value", "description"], rows));
  section.className = "route";
  return section;
}

async function start() {
  const address = `${location.origin}/api/caption`;
  element("example").textContent = [
    `curl --data-binary @photo.jpg ${address}`,
    `curl -F photo=@photo.jpg '${address}?beam_size=5&num_captions=3'`,
  ].join("\n");
  const api = await (await fetch("/openapi.json")).json();
  const all = api.components.schemas;
  element("about").textContent = api.info.description;
  const routes = Object.entries(api.paths).flatMap(
    ([path, methods]) => Object.entries(methods).map(([method, route]) => describe(path, method, route, all)),
  );
  const objects = Object.entries(all).filter(([name, { properties }]) => properties && !/Validation/.test(name));
  element("routes").replaceChildren(...routes, ...objects.map(([name, schema]) => describeObject(name, schema, all)));
}

start().catch((error) => {
  element("routes").textContent = `openapi.json could not be read (${error.message}). Is captioner web still running?`;
});
