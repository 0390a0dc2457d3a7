// The Defend tab: guesses, what was measured, and the gate game, without the server. All texts come as text, not as HTML.
const view = { rows: [], row: 0, shown: false };
const all = (selector) => [...element.querySelectorAll(selector)];

// What was measured, beside what the visitor guessed.
function reveal() {
  view.shown = true;
  let right = 0, clear = 0;
  for (const card of all("[data-helps]")) {
    const guessed = card.querySelector("[data-guess]").ariaPressed === "true";
    const helps = card.dataset.helps;
    card.querySelector("[data-measured]").hidden = false;
    const mine = card.querySelector("[data-mine]");
    mine.textContent = `You: ${guessed ? "it helps" : "it does not"}.`;
    if (helps === "unclear") continue;
    clear += 1;
    if (guessed === (helps === "yes")) right += 1;
    mine.textContent += guessed === (helps === "yes") ? " Right." : " No.";
  }
  part("score").textContent = clear
    ? `${right} of ${clear} right; the others have no clear answer here.`
    : "None of them has a clear answer here.";
}

const number = (value) => value.toFixed(3).replace("-", "\u2212");

function play() {
  const row = view.rows[view.row];
  if (!row) return;
  all("[data-row]").forEach((button, i) => (button.ariaPressed = String(i === view.row)));
  const by = row.scores.filter((each) => each.score > each.threshold).map((each) => each.gate);
  part("verdict").textContent = row.refused
    ? `Refused (${row.label}): too much like the model's own drawings for ${by.join(" and ")}.`
    : row.honest
      ? "Let through, as they should be: these are honest photos."
      : `Past the gate (${row.label}): every score is below its threshold.`;
  const box = part("scores");
  box.replaceChildren();
  row.scores.forEach((each, i) => {
    // One scale for all choices, so that what moves is the score.
    const every = view.rows.flatMap((other) => [other.scores[i].score, other.scores[i].threshold]);
    const low = Math.min(...every), span = Math.max(...every) - low || 1;
    const place = (value) => `${4 + (92 * (value - low)) / span}%`;
    const line = add(box, "div", each.score > each.threshold ? "line above" : "line");
    add(line, "span", "", each.gate);
    const track = add(line, "span", "track");
    track.ariaHidden = "true";
    add(track, "i", "limit").style.left = place(each.threshold);
    add(track, "i", "at").style.left = place(each.score);
    const refused = each.score > each.threshold;
    add(line, "span", "", `${number(each.score)}, ${refused ? "above" : "below"} ${number(each.threshold)}: ${refused ? "refused" : "passes"}`);
  });
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  if (button.dataset.guess !== undefined) {
    button.ariaPressed = String(button.ariaPressed !== "true");
    if (view.shown) reveal();
  } else if (button.dataset.show !== undefined) reveal();
  else if (button.dataset.row !== undefined) {
    view.row = Number(button.dataset.row);
    play();
  }
});

function read() {
  const kept = part("game");
  view.rows = kept ? JSON.parse(kept.dataset.game) : [];
  play();
}

watch("value", read);
read();
