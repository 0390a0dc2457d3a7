// The address says what the page shows, so that a refresh, a bookmark and a share link open the same.
window.s2l = {
  ready: false, // until the server has read the address, nothing may change it
  address(changes) {
    if (!this.ready) return;
    const url = new URL(window.location);
    for (const [name, value] of Object.entries(changes))
      value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
    window.history.replaceState(null, "", url);
  },
};
