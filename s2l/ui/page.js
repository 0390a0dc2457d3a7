// The address says what the page shows, so that a refresh, a bookmark and a share link open the same.
window.s2l = {
  opened: false, // until the server has read the address, changes wait: nothing may overwrite what it asks for
  waiting: {},
  address(changes) {
    if (!this.opened) {
      Object.assign(this.waiting, changes);
      return;
    }
    const url = new URL(window.location);
    const tab = url.searchParams.get("tab");
    for (const [name, value] of Object.entries(changes))
      value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
    if (url.href === window.location.href) return; // the Back button brought us here
    // Another tab is another entry of the browser's history: Back returns to the tab before, not to another site.
    const other = changes.tab && changes.tab !== tab;
    window.history[other ? "pushState" : "replaceState"](null, "", url);
  },
  // Arrow keys move between tabs, Home and End to the first and the last one (WAI-ARIA, pattern "tabs").
  arrows(event) {
    const tab = event.target.closest?.('[role="tab"]');
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: 0, End: 0 };
    if (!tab || !(event.key in steps)) return;
    const tabs = [...tab.parentElement.querySelectorAll('[role="tab"]')];
    const last = tabs.length - 1;
    const at = tabs.indexOf(tab) + steps[event.key];
    const next = tabs[event.key === "Home" ? 0 : event.key === "End" ? last : at < 0 ? last : at > last ? 0 : at];
    event.preventDefault();
    next.click();
    next.focus();
  },
  ready() {
    this.opened = true;
    this.address(this.waiting); // what a quick visitor clicked meanwhile
  },
};
document.addEventListener("keydown", (event) => window.s2l.arrows(event));
// Words that open their explanation (words.py): hover and focus are style rules; a tap opens, Escape closes.
const term = (event) => event.target.closest?.(".s2l .term");
const shown = (event) => {
  const word = term(event);
  if (!word) return;
  const tip = word.querySelector(".tip");
  tip.style.setProperty("--dx", "0px");
  const over = tip.getBoundingClientRect().right - document.documentElement.clientWidth + 8;
  if (over > 0) tip.style.setProperty("--dx", `${-over}px`);
  // Above the word where there is no room below it.
  const box = tip.getBoundingClientRect();
  const above = word.getBoundingClientRect().top;
  tip.classList.toggle("above", box.height + above + 40 > window.innerHeight && above > box.height);
};
document.addEventListener("mouseover", (event) => shown(event));
document.addEventListener("focusin", (event) => shown(event));
document.addEventListener("click", (event) => {
  const word = term(event);
  for (const other of document.querySelectorAll(".s2l .term.open")) if (other !== word) other.classList.remove("open");
  if (!word) return;
  word.classList.remove("shut");
  word.classList.add("open");
  shown(event);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const word of document.querySelectorAll(".s2l .term"))
    if (word.matches(".open, :hover, :focus-within")) {
      word.classList.remove("open");
      word.classList.add("shut");
    }
});
for (const left of ["mouseout", "focusout"])
  document.addEventListener(left, (event) => {
    const word = term(event);
    if (!word || word.contains(event.relatedTarget)) return;
    word.classList.remove("shut", "open");
    // What was clicked keeps the focus, and with it an explanation that covers what the mouse has gone on to.
    if (left === "mouseout" && word.contains(document.activeElement)) document.activeElement.blur();
  });
