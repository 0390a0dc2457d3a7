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
