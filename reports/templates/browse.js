// The list of tiles stands here whole, so that paging asks for nothing but the next tile; a stretch of it is drawn.
const AROUND = 40;  // rows drawn before and after the tile that is shown
const KEPT = 8;     // tiles kept, so that going back is at once
const by = id => document.getElementById(id);
const filters = by("filters");
let tiles = [];     // [position, name, fold, IoU]
let at = 0;
const kept = new Map();

const percent = value => value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`;
const decimal = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function ask(path) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Error("No answer. Is python -m reports.browse still running?");
  }
  if (!response.ok) throw new Error(`${response.status}: ${(await response.text()).slice(0, 300)}`);
  return response.json();
}

function tile(n) {
  if (!kept.has(n)) kept.set(n, ask(`/api/tiles/${n}`).catch(error => { kept.delete(n); throw error; }));
  for (const oldest of [...kept.keys()].slice(0, Math.max(0, kept.size - KEPT))) kept.delete(oldest);
  return kept.get(n);
}

function wanted() {
  const query = new URLSearchParams();
  for (const [key, value] of new FormData(filters)) {
    const field = filters.elements[key];
    const usual = field.tagName === "SELECT" ? field.options[0].value : field.defaultValue;
    if (value !== "" && value !== usual) query.set(key, value);
  }
  return query;
}

// Runs one after the other's answer has come too late: only what was asked for last is shown.
let turn = 0;
async function guarded(work) {
  const mine = ++turn;
  try {
    await work(() => mine === turn);
  } catch (error) {
    if (mine === turn) by("place").textContent = error.message;
  }
}

function search(name) {
  if (!filters.reportValidity()) return;
  guarded(async current => {
    const answer = await ask(`/api/tiles?${wanted()}`);
    if (!current()) return;
    tiles = answer.tiles;
    by("count").textContent = tiles.length === 1 ? "1 tile" : `${tiles.length.toLocaleString("en")} tiles`;
    const found = tiles.findIndex(each => each[1] === name);
    go(Math.max(found, 0));
  });
}

function go(position) {
  at = Math.min(Math.max(position, 0), tiles.length - 1);
  by("previous").disabled = at <= 0;
  by("next").disabled = at >= tiles.length - 1;
  drawList();
  by("shown").hidden = !tiles.length;
  if (!tiles.length) {
    at = 0;
    by("place").textContent = "No tile is like that.";
    return;
  }
  guarded(async current => {
    const [n, name] = tiles[at];
    const query = wanted();
    query.set("tile", name);
    history.replaceState(null, "", `?${query}`);
    const shown = await tile(n);
    if (!current()) return;
    draw(shown);
    by("place").textContent = `${(at + 1).toLocaleString("en")} of ${tiles.length.toLocaleString("en")}: ${name}`;
    if (at + 1 < tiles.length) tile(tiles[at + 1][0]).catch(() => {});
  });
}

function drawList() {
  const first = Math.max(0, at - AROUND);
  const list = by("list");
  list.start = first + 1;
  list.replaceChildren(...tiles.slice(first, at + AROUND + 1).map(([, name, fold, iou], i) => {
    const row = element("li");
    const button = element("button", "", { type: "button" });
    button.append(element("span", name), element("span", `fold ${fold}`), element("span", decimal(iou, 2)));
    if (first + i === at) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => go(first + i));
    row.append(button);
    return row;
  }));
  const here = list.querySelector("[aria-current]");
  if (here) list.scrollTop = here.offsetTop - list.offsetTop - list.clientHeight / 2;
}

function picture({ label, alt, src }) {
  const item = element("li");
  item.append(element("img", "", { src, alt }), element("span", label, { "aria-hidden": "true" }));
  return item;
}

function draw(shown) {
  by("name").textContent = shown.name;
  const facts = [["fold", shown.fold], ["group", shown.group], ["mIoU of the tile", decimal(shown.miou, 3)], ["wrong pixels", percent(shown.wrong)]];
  by("facts").replaceChildren(...facts.map(([what, value]) => {
    const fact = element("div");
    fact.append(element("dt", what), element("dd", value));
    return fact;
  }));
  by("pictures").replaceChildren(...shown.pictures.map(picture));
  by("maps").replaceChildren(...shown.maps.map(picture));
  by("maps-block").hidden = !shown.maps.length;
  by("classes").replaceChildren(...shown.classes.map(each => {
    const row = element("tr");
    const head = element("th", "", { scope: "row" });
    const swatch = element("span", "", { class: "swatch" });
    swatch.style.background = each.color;
    head.append(swatch, each.name);
    row.append(head, ...[percent(each.mask), percent(each.predicted), decimal(each.iou, 3), percent(each.probability)]
      .map(text => element("td", text, { class: "number" })));
    return row;
  }));
}

filters.addEventListener("submit", event => event.preventDefault());
filters.addEventListener("change", () => search(tiles.length ? tiles[at][1] : ""));
by("previous").addEventListener("click", () => go(at - 1));
by("next").addEventListener("click", () => go(at + 1));
addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.matches("input, select")) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !tiles[at + step]) return;
  event.preventDefault();
  go(at + step);
});

// The address holds what is asked for: it can be kept, and survives a reload.
const asked = new URLSearchParams(location.search);
for (const [key, value] of asked) {
  const field = filters.elements[key];
  if (field && (field.tagName !== "SELECT" || [...field.options].some(option => option.value === value))) field.value = value;
}
search(asked.get("tile") ?? "");
