// When the browser has stopped this page for a while: hidden, frozen, in the back/forward cache, suspended or offline.
//
// `leaving(kind)` comes where the browser says so beforehand, `back(kind)` when the page runs again.  A process that was
// stopped says nothing; the clock shows it.  Timers of hidden pages are slow, so a late one proves nothing there.

const TICK_MS = 1000;
const STOPPED_MS = 3000;

export function watchLifecycle({ leaving, back, tick }) {
  let last = Date.now();
  const stopped = () => {
    const gap = Date.now() - last;
    last = Date.now();
    return gap > STOPPED_MS && document.visibilityState === "visible";
  };
  setInterval(() => {
    if (stopped()) back("stopped");
    else tick();
  }, TICK_MS);
  addEventListener("pagehide", () => leaving("pagehide"));
  addEventListener("pageshow", (event) => {
    last = Date.now();
    if (event.persisted) back("cache");
  });
  document.addEventListener("freeze", () => leaving("freeze"));
  document.addEventListener("resume", () => {
    last = Date.now();
    back("resume");
  });
  document.addEventListener("visibilitychange", () => {
    last = Date.now();
    if (document.visibilityState === "visible") back("visible");
  });
  addEventListener("online", () => back("online"));
  addEventListener("offline", () => leaving("offline"));
  return { noticed: () => { if (stopped()) back("stopped"); } };
}
