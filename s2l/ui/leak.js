// The first screen: the slider through w = 0, the attack and the threshold move everything together, without the server.
const shown = { data: null, at: 0, both: false, attack: "", accused: 20 };

const one = (name) => element.querySelector(`[${name}]`);
const all = (name) => element.querySelectorAll(`[${name}]`);

function read() {
  const kept = one("data-frames");
  if (!kept) return;
  shown.data = JSON.parse(kept.dataset.frames);
  shown.at = shown.data.base;
  shown.both = false;
  shown.attack = shown.data.attack;
  resume();
  draw();
}

// The address holds what is seen, "person~attack~w~accused", so that a link opens the same. Anything else is ignored.
let wanted = (new URL(window.location).searchParams.get("see") || "").split("~");

function resume() {
  const [person, attack, at, accused] = wanted;
  if (!person) return;
  if (person !== shown.data.person) {
    if (![...all("data-person")].some((face) => face.dataset.person === person)) wanted = [];
    else setTimeout(() => trigger("click", { person }));
    return;
  }
  wanted = [];
  const { data } = shown;
  if (Object.hasOwn(data.titles, attack)) shown.attack = attack;
  const frame = data.frames.findIndex((each) => String(each.w) === at);
  if (frame >= 0) shown.at = frame;
  shown.both = at === "both" && Boolean(data.both);
  const slider = one("data-accused");
  if (/^\d{1,4}$/.test(accused ?? "") && Number(accused) <= Number(slider.max)) shown.accused = Number(accused);
}

function keep() {
  wanted = [];
  const { data, at, both, attack, accused } = shown;
  window.s2l?.address({ see: [data.person, attack, both ? "both" : data.frames[at].w, accused].join("~") });
}

// The scores that are shown: of the model at w, or of both models together.
function scored() {
  const { data, at, both, attack } = shown;
  return both ? data.both : data.frames[at].attacks[attack];
}

function draw() {
  const { data, at, both } = shown;
  if (!data) return;
  if (both) shown.attack = data.both.attack;
  const frame = data.frames[at];
  for (const image of all("data-seed")) image.src = frame.pictures[Number(image.dataset.seed)];
  ["members", "nonmembers"].forEach((part, i) => {
    const near = frame.near[part];
    element.querySelector(`[data-made="${part}"]`).src = frame.pictures[frame.pictures.length - 2 + i];
    const photo = wall()[near.photo + (part === "members" ? 0 : data.n)];
    element.querySelector(`[data-photo="${part}"]`).src = photo.src;
    element.querySelector(`[data-l2="${part}"]`).textContent = `l2 ${near.l2.toFixed(3)}`;
    const copy = near.l2 <= data.delta;
    const close = part === "members" ? "a copy" : "alike by chance"; // nothing is a copy of what it never saw
    element.querySelector(`[data-says="${part}"]`).textContent = copy ? close : "no copy";
    element.querySelector(`.pair.${part}`).classList.toggle("hit", copy);
  });
  one("data-w").value = at;
  one("data-w").disabled = both; // its place would say nothing
  one("data-w-says").textContent = both ? "base and shaken together" : frame.label;
  one("data-conclusion").textContent = scored().says;
  for (const chip of all("data-go"))
    chip.ariaPressed = String(both ? chip.dataset.go === "both" : chip.dataset.go === String(at));
  for (const chip of all("data-attack")) {
    chip.ariaPressed = String(chip.dataset.attack === shown.attack);
    chip.disabled = both && chip.dataset.attack !== shown.attack;
    chip.title = chip.disabled ? `both models: measured for ${data.titles[data.both.attack]} only` : "";
  }
  rank();
}

const wall = () => one("data-wall").children;

function rank() {
  const { data } = shown;
  one("data-accused").value = shown.accused;
  const { scores, auc, low, high } = scored();
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
  const accused = shown.accused;
  let found = 0;
  order.forEach((photo, place) => {
    const image = wall()[photo];
    image.style.order = place;
    image.classList.toggle("out", place >= accused);
    if (place < accused && photo < data.n) found += 1;
  });
  const innocent = accused - found;
  const title = data.titles[shown.attack];
  one("data-point").innerHTML =
    `${accused} accused: <b class="m">${found} of ${data.n} were trained on</b>, ` +
    `<b class="h">${innocent} of ${scores.length - data.n} are innocent</b>`;
  one("data-wall").ariaLabel =
    `All ${scores.length} photos, ranked by the ${title} attack. ` + one("data-point").textContent;
  one("data-auc").textContent = `AUC ${auc.toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]`;
  one("data-pairs").textContent = `A photo it was trained on ranks above an innocent one in ${Math.round(100 * auc)} % of pairs.`;
  one("data-word").textContent = shown.both ? "" : data.words[shown.attack];
  curve(order, scores.length - data.n, found / data.n, innocent / (scores.length - data.n), title, auc);
}

// The ROC curve, from the ranking itself, with the point of the threshold.
function curve(order, held, tpr, fpr, title, auc) {
  const { data } = shown;
  const x = (value) => 24 + 170 * value;
  const y = (value) => 176 - 170 * value;
  let members = 0, others = 0, path = `M${x(0)},${y(0)}`;
  for (const photo of order) {
    photo < data.n ? (members += 1) : (others += 1);
    path += `L${x(others / held).toFixed(1)},${y(members / data.n).toFixed(1)}`;
  }
  const svg = one("data-roc");
  svg.ariaLabel = `ROC curve of the ${title} attack, AUC ${auc.toFixed(2)}`;
  svg.innerHTML =
    `<path class="frame" d="M${x(0)},${y(1)}V${y(0)}H${x(1)}"/><path class="chance" d="M${x(0)},${y(0)}L${x(1)},${y(1)}"/>` +
    `<path class="curve" d="${path}"/><circle cx="${x(fpr)}" cy="${y(tpr)}" r="6"/>` +
    `<text x="${x(1)}" y="196" text-anchor="end">innocent accused</text>` +
    `<text transform="translate(14,${y(1)}) rotate(-90)" text-anchor="end">trained on, found</text>`;
}

element.addEventListener("input", ({ target }) => {
  if (target.matches("[data-w]")) {
    shown.at = Number(target.value);
    shown.both = false;
    draw();
  } else if (target.matches("[data-accused]")) {
    shown.accused = Number(target.value);
    rank();
  } else return;
  keep();
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  const { go, attack, person } = button.dataset;
  if (go) {
    shown.both = go === "both";
    shown.at = shown.both ? shown.data.base : Number(go);
    draw();
    keep();
  } else if (attack) {
    shown.attack = attack;
    draw();
    keep();
  } else if (person) {
    window.s2l?.address({ see: person });
    trigger("click", { person });
  }
});

watch("value", read);
read();
