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
    for (const [name, value] of Object.entries(changes))
      value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
    window.history.replaceState(null, "", url);
  },
  ready() {
    this.opened = true;
    this.address(this.waiting); // what a quick visitor clicked meanwhile
  },
};
