// The figure of the Compare tab: every choice redraws it here, without the server. All texts come as text, not as HTML.
const MODELS = { one: "one model", both: "both models together" };
const SHOWS = { change: "the change", auc: "before and after" };
const CHANCE = 0.5;
const view = { tables: [], table: 0, attack: "loss", model: "one", show: "change", row: "" };

// The numbers of a row for what is chosen: {value: [mean, low, high], from: mean or null, paper, says}.
function numbers(row) {
  const cell = row.cells[view.attack];
  const side = view.model === "both" ? cell.both : cell;
  if (!side) return null;
  const change = view.show === "change";
  const paper = view.model === "one" && cell.paper ? cell.paper[change ? "change" : "auc"] : null;
  return { value: change ? side.change : side.after, from: change ? null : cell.before[0], change: side.change, paper, says: side.says };
}

const counted = () => view.attack === "extraction";
const level = () => (view.show === "change" || counted() ? 0 : CHANCE);

function words(value, sign = view.show === "change") {
  const text = value.toFixed(counted() ? 1 : 3).replace("-", "\u2212");
  return sign && value > 0 ? `+${text}` : text;
}

function ends([value, low, high]) {
  return low === null ? words(value) : `${words(value)} [${words(low)}, ${words(high)}]`;
}

// Round ticks that cover all values.
function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function chips(name, choices, chosen, disabled = () => false) {
  const box = part(name);
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.value : null;
  box.replaceChildren();
  for (const [value, text] of Object.entries(choices)) {
    const button = add(box, "button", "", text);
    button.type = "button";
    button.dataset.choice = name;
    button.dataset.value = value;
    button.ariaPressed = String(value === String(chosen));
    button.disabled = disabled(value);
    if (value === focused) button.focus();
  }
}

function draw() {
  const table = view.tables[view.table];
  if (!table) return;
  if (!(view.attack in table.attacks)) view.attack = Object.keys(table.attacks)[0];
  const hasBoth = table.rows.some((row) => row.cells[view.attack]?.both);
  if (!hasBoth) view.model = "one";
  chips("tables", Object.fromEntries(view.tables.map((t, i) => [i, t.title])), view.table);
  chips("attacks", table.attacks, view.attack);
  chips("models", MODELS, view.model, (value) => value === "both" && !hasBoth);
  chips("shows", SHOWS, view.show);
  part("about").textContent = table.about;
  const shown = table.rows.map((row) => [row.label, numbers(row)]).filter(([, found]) => found);
  const size = ([, { value }]) => Math.abs(value[0] - level());
  if (!shown.some(([label]) => label === view.row)) // the row that says most
    view.row = shown.reduce((most, row) => (size(row) > size(most) ? row : most))[0];
  const every = shown.flatMap(([, n]) => [...n.value, n.from, n.paper]).filter((v) => v !== null && v !== undefined);
  const marks = ticks(Math.min(level(), ...every), Math.max(level(), ...every));
  const place = (value) => `${(100 * (value - marks[0])) / (marks.at(-1) - marks[0])}%`;
  rows(shown, place);
  axis(marks, place);
  say(shown);
}

function rows(shown, place) {
  const box = part("rows");
  const focused = box.contains(document.activeElement);
  box.replaceChildren();
  for (const [label, found] of shown) {
    const { value, from, paper, change } = found;
    const sure = change[1] === null ? "" : change[1] > 0 ? "up" : change[2] < 0 ? "down" : "";
    const button = add(box, "button", `fx ${sure}`);
    button.type = "button";
    button.dataset.row = label;
    button.ariaPressed = String(label === view.row);
    add(button, "span", "name", label);
    const track = add(button, "span", "track");
    track.ariaHidden = "true";
    add(track, "i", "zero").style.left = place(level());
    if (value[1] !== null) {
      const bar = add(track, "i", "bar-of");
      bar.style.left = place(value[1]);
      bar.style.right = `calc(100% - ${place(value[2])})`;
    }
    if (from !== null) add(track, "i", "from").style.left = place(from);
    if (paper !== null) add(track, "i", "paper").style.left = place(paper);
    add(track, "i", "dot-of").style.left = place(value[0]);
    const said = add(button, "span", "said", ends(value));
    if (paper !== null) add(said, "small", "", `the paper: ${words(paper)}`);
    if (focused && label === view.row) button.focus();
  }
}

function axis(marks, place) {
  const box = part("axis");
  box.replaceChildren();
  for (const mark of marks) {
    const text = add(box, "span", "", String(Number(mark.toFixed(4))).replace("-", "\u2212"));
    text.style.left = place(mark);
  }
}

function say(shown) {
  part("says").textContent = shown.find(([label]) => label === view.row)[1].says;
  const what = counted() ? "photos per person" : "AUC of the attack (0.5 is guessing)";
  const marks = view.show === "change" ? `Change of the ${what}` : `${what}: hollow before, filled after`;
  const paper = shown.some(([, found]) => found.paper !== null) ? " Diamond: the paper." : "";
  part("key").textContent = `${marks}. Line: 95 % interval. \u25b2 clearly up, \u25bc clearly down, \u25cf no clear change.${paper} Choose a row to read it.`;
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  const { choice, value, row } = button.dataset;
  if (row !== undefined) view.row = row;
  else if (choice === "tables") view.table = Number(value);
  else if (choice) view[{ attacks: "attack", models: "model", shows: "show" }[choice]] = value;
  draw();
});

element.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest("[data-row]");
  if (!step || !row) return;
  event.preventDefault();
  const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
  if (!next) return;
  next.focus();
  view.row = next.dataset.row;
  draw();
});

function read() {
  const kept = part("tables-json");
  if (!kept) return;
  view.tables = JSON.parse(kept.dataset.tablesJson);
  draw();
}

watch("value", read);
read();
