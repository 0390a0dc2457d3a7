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
  ready() {
    this.opened = true;
    this.address(this.waiting); // what a quick visitor clicked meanwhile
  },
};
